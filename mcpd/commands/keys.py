"""`mcpd keys new | list | revoke | seal`.

A key is printed once; names, scopes and dates can be listed.

Called by: `cli`, which adds the command. Deliberately not: anything but click; the work is imported when it
runs (`gateway.keys`, `sealing`).

Sources: surfaces "Command line".
"""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from mcpd.commands.options import COMMON, as_json, configured, examples, options, print_json


@click.group(
    epilog=examples(
        "mcpd keys new laptop",
        "mcpd keys new reader --scope read --scope metrics",
        "mcpd keys list",
        "mcpd keys revoke laptop",
        "mcpd keys seal",
    )
)
def keys() -> None:
    """Make, list and revoke API keys.

    A running server takes changes over on SIGHUP.
    """


_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_MAX_LIFE_DAYS = 36_500


def _life(_context: click.Context, _parameter: click.Parameter, text: str | None) -> timedelta | None:
    if text is None:
        return None
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not re.fullmatch("[0-9]{1,10}", number):
        raise click.BadParameter(f"{text!r} is no time such as 90d, 12h or 30m")
    life = timedelta(**{_UNITS[unit]: int(number)})
    if not timedelta(0) < life <= timedelta(days=_MAX_LIFE_DAYS):
        raise click.BadParameter(f"{text!r} is not between a second and a hundred years")
    return life


def _as_json(key: Any) -> dict[str, Any]:
    shown = {"name": key.name, "scopes": key.scopes, "created": key.created, "expires": key.expires}
    return {name: value for name, value in shown.items() if value is not None}


@keys.command(
    "new",
    epilog=examples(
        "mcpd keys new laptop",
        "mcpd keys new prometheus --scope metrics",
        "mcpd keys new contractor --expires 90d",
        "KEY=$(mcpd keys new ci --scope call --json | jq -r .key)",
    ),
)
@click.argument("name")
@click.option(
    "--scope", "scopes", multiple=True, default=("call",), show_default=True, metavar="S",
    help="read < call < write < admin, metrics, or a tool's own; may be repeated.",
)  # fmt: skip
@click.option("--expires", callback=_life, metavar="90d", help="Life of the key: s, m, h, d or w.  [default: for ever]")
@options(COMMON)
@as_json
def new_key(name: str, scopes: tuple[str, ...], expires: Any, config_file: Path | None, **common: Any) -> None:
    """Make an API key and print it, once: only its hash is stored."""
    store = _store(config_file, common["data"])
    key = store.new(name, scopes, life=expires).reveal()
    shown = False
    try:
        _show(store, name, key, in_json=common["as_json"])
        shown = True
    finally:
        if not shown:
            store.revoke(name)
    if not common["as_json"]:
        _explain(store, scopes)


def _show(store: Any, name: str, key: str, *, in_json: bool) -> None:
    """Print a new key and see that it was written: if stdout is full or closed, nobody has it."""
    if in_json:
        (made,) = (made for made in store.list() if made.name == name)
        end = {} if made.expires is None else {"expires": made.expires}
        print_json({"name": name, "scopes": made.scopes, "key": key, **end})
    else:
        click.echo(key)
    sys.stdout.flush()


def _explain(store: Any, scopes: tuple[str, ...]) -> None:
    from mcpd.gateway.keys import LADDER, METRICS

    click.echo(f"Keep it: it is shown only now. Stored as a hash in {store.path}.", err=True)
    click.echo("A running server takes it, and asks for keys if this is the first, after SIGHUP.", err=True)
    for scope in scopes:
        if scope not in (*LADDER, METRICS):
            click.echo(
                f"{scope!r} is no scope of mcpd's own: it opens what a tool names so, and nothing else.", err=True
            )


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
    store = _store(config_file, data)
    found = store.list()
    if as_json:
        print_json({"keys": [_as_json(key) for key in found]})
        return
    now = datetime.now(UTC)
    for key in found:
        end = "" if key.expires is None else f"  {'expired' if key.expires <= now else 'expires'} {_time(key.expires)}"
        click.echo(f"{key.name:24} {' '.join(key.scopes):24} {_time(key.created)}{end}")
    if store.locked:
        click.echo(_LOCKED.format(path=store.path), err=True)
    elif not found:
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
    store = _store(config_file, data)
    key = store.revoke(name)
    if as_json:
        print_json({"revoked": key.name, "locked": store.locked})
        return
    click.echo(f"Revoked {key.name}. A running server goes on taking it until it gets SIGHUP.")
    if store.locked:
        click.echo(_LOCKED.format(path=store.path), err=True)


@keys.command("seal", epilog=examples("export MCPD_SEAL_KEYS=$(mcpd keys seal)"))
def new_seal() -> None:
    """Make a key that seals cursors and states, and print it: for MCPD_SEAL_KEYS of all replicas.

    It is stored nowhere. To change keys, append the new one to the list of every replica, then put it first in each.
    """
    from mcpd.sealing import new_key

    click.echo(new_key().strip())
    sys.stdout.flush()


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


_LOCKED = (
    "There is no key that is good, and every request needs one: nobody can use the server."
    " Make one with: mcpd keys new NAME; or, to ask for no keys at all, stop the server and remove {path}"
)


def _store(config_file: Path | None, data: Path | None) -> Any:
    from mcpd.gateway.keys import KeyStore

    config = configured(config_file, data)
    return KeyStore(config.keys_file, config.auth.api_key)
