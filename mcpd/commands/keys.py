"""`mcpd keys new | list | revoke`.

A key is printed once; names, scopes and dates can be listed.

Called by: `cli`, which adds the command. Deliberately not: anything but click; the work is imported when it
runs (`gateway.keys`).

Sources: surfaces "Command line".
"""

from __future__ import annotations

from pathlib import Path

import click

from mcpd.commands.options import COMMON, as_json, configured, examples, options, print_json


@click.group(
    epilog=examples(
        "mcpd keys new laptop",
        "mcpd keys new reader --scope read --scope metrics",
        "mcpd keys list",
        "mcpd keys revoke laptop",
    )
)
def keys() -> None:
    """Make, list and revoke API keys.

    A running server takes changes over on SIGHUP.
    """


@keys.command(
    "new",
    epilog=examples(
        "mcpd keys new laptop",
        "mcpd keys new prometheus --scope metrics",
        "KEY=$(mcpd keys new ci --scope call --json | jq -r .key)",
    ),
)
@click.argument("name")
@click.option(
    "--scope", "scopes", multiple=True, default=("call",), show_default=True, metavar="S",
    help="read < call < write < admin, metrics, or a tool's own; may be repeated.",
)  # fmt: skip
@options(COMMON)
@as_json
def new_key(name: str, scopes: tuple[str, ...], config_file: Path | None, data: Path | None, *, as_json: bool) -> None:
    """Make an API key and print it, once: only its hash is stored."""
    from mcpd.gateway.keys import KeyStore

    store = KeyStore(_keys_file(config_file, data))
    key = store.new(name, scopes).reveal()
    if as_json:
        print_json({"name": name, "scopes": scopes, "key": key})
        return
    click.echo(key)
    click.echo(f"Keep it: it is shown only now. Stored as a hash in {store.path}.", err=True)


@keys.command(
    "list",
    epilog=examples(
        "mcpd keys list",
        "mcpd keys list --data ~/.local/share/mcpd --json",
    ),
)
@options(COMMON)
@as_json
def list_keys(config_file: Path | None, data: Path | None, *, as_json: bool) -> None:
    """List the names, scopes and dates of all keys."""
    from mcpd.gateway.keys import KeyStore

    store = KeyStore(_keys_file(config_file, data))
    found = store.list()
    if as_json:
        print_json({"keys": [{"name": key.name, "scopes": key.scopes, "created": key.created} for key in found]})
        return
    for key in found:
        click.echo(f"{key.name:24} {' '.join(key.scopes):24} {key.created:%Y-%m-%d}")
    if not found:
        click.echo("No keys yet; make one with: mcpd keys new NAME", err=True)


@keys.command(
    "revoke",
    epilog=examples(
        "mcpd keys revoke laptop",
    ),
)
@click.argument("name")
@options(COMMON)
@as_json
def revoke_key(name: str, config_file: Path | None, data: Path | None, *, as_json: bool) -> None:
    """Revoke a key; a running server takes it over on SIGHUP."""
    from mcpd.gateway.keys import KeyStore

    key = KeyStore(_keys_file(config_file, data)).revoke(name)
    if as_json:
        print_json({"revoked": key.name})
    else:
        click.echo(f"Revoked {key.name}. A running server goes on taking it until it gets SIGHUP.")


def _keys_file(config_file: Path | None, data: Path | None) -> Path:
    return configured(config_file, data).keys_file
