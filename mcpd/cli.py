"""The command line: `mcpd serve | stdio | call | check | keys`, and the commands on the document store.

Each command turns its flags into the configuration (`settings.load`) and hands it on; what a command needs is imported
when it runs, so that `mcpd --help` is quick and `mcpd call` loads no server.

Called by: the console script `mcpd` and `python -m mcpd`. Calls `app` (serve, stdio), `commands.calling`
(call), `commands.checking` (check) and the key store (keys). Deliberately not: any decision about the server; that is
`app`'s and `config`'s.

Laws: exit codes are 0 done, 1 something failed, 2 wrong usage or configuration, 130 interrupted; what went wrong is one
line on stderr that says what to do; results go to stdout, as JSON with `--json`.

Sources: surfaces "Command line", "Configuration", "Access".
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from mcpd.commands.declarations import COMMANDS
from mcpd.commands.options import (
    COMMON,
    FAILED,
    INTERRUPTED,
    PATH,
    WRONG_USAGE,
    as_json,
    examples,
    load,
    options,
    print_json,
)
from mcpd.errors import ConfigurationError, McpdError

DEFAULT_URL = "ws://127.0.0.1:8000/ws"

_SERVED = (
    click.option("--tools", multiple=True, metavar="FILE_OR_MODULE", help="Tools to serve; may be repeated."),
    click.option("--files", type=PATH, metavar="DIR", help="Folder of the file tools.  [default: working folder]"),
    click.option("--no-files", is_flag=True, help="Serve no file tools."),
    click.option("--log-level", metavar="L", help="debug, info, warning or error.  [default: info]"),
)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    _fill_standard_descriptors()
    sys.exit(run(arguments))


def _fill_standard_descriptors() -> None:
    """Open what the caller has closed of 0, 1 and 2: else a store gets that number, and log lines go into it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        code = cli.main(args=arguments, prog_name="mcpd", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            click.echo(f"mcpd: {error.filename or 'the output'}: {error.strerror}", err=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except McpdError as error:
        click.echo(f"mcpd: {error}", err=True)
        return WRONG_USAGE if isinstance(error, ConfigurationError) else FAILED
    return code if isinstance(code, int) else 0


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        import mcpd

        click.echo(f"mcpd {mcpd.__version__}")
        context.exit()


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog=examples(
        "mcpd serve                                  serve the working folder on http://127.0.0.1:8000",
        "mcpd serve --tools tools.py --files ~/docs  serve your own tools, and another folder",
        "mcpd call list_files path=. recursive=true  call a tool on a running server",
        "mcpd check                                  show the configuration and what is wrong with it",
    ),
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print the version."
)
def cli() -> None:
    """An MCP server: tools, resources and prompts for AI agents, over HTTP, WebSocket and stdio.

    Exit codes: 0 done, 1 something failed, 2 wrong usage, 130 interrupted.
    """


@cli.command(
    epilog=examples(
        "mcpd serve",
        "mcpd serve --port 9000 --tools weather.py --tools my_package.tools",
        "mcpd serve --files ~/notes --data ~/.local/share/mcpd",
        "mcpd serve --bind unix:/run/mcpd.sock",
        "mcpd serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem     (after: mcpd keys new NAME)",
    )
)
@options(COMMON)
@click.option("--host", metavar="ADDRESS", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", metavar="N", help="Port to listen on; 0 takes a free one.  [default: 8000]")
@click.option("--bind", metavar="unix:PATH", help="Listen on a Unix socket instead.")
@click.option("--tls-cert", type=PATH, metavar="F", help="Certificate (PEM); needs --tls-key.")
@click.option("--tls-key", type=PATH, metavar="F", help="Private key (PEM).")
@options(_SERVED)
@click.option("--insecure", is_flag=True, help="Serve beyond this machine without keys.")
def serve(config_file: Path | None, *, insecure: bool, tools: tuple[str, ...], **flags: Any) -> int:
    """Serve MCP over HTTP and WebSocket.

    The first Ctrl-C lets running calls finish, the second ends at once.
    """
    import mcpd.app

    config = load(config_file, _flags(tools, **flags) | {"server.insecure": insecure or None})
    return mcpd.app.serve(config)


@cli.command(
    epilog=examples(
        "mcpd stdio --files ~/notes",
        "mcpd stdio --tools weather.py --log-level warning",
    )
)
@options(COMMON, _SERVED)
def stdio(config_file: Path | None, tools: tuple[str, ...], **flags: Any) -> int:
    """Serve MCP on stdin and stdout, for a client that starts the server itself.

    Logs go to stderr.
    """
    import mcpd.app

    return mcpd.app.stdio(load(config_file, _flags(tools, **flags)))


def _flags(tools: tuple[str, ...] = (), *, no_files: bool = False, **flags: object) -> dict[str, object]:
    if no_files and flags.get("files") is not None:
        raise click.UsageError("--files and --no-files contradict each other")
    names = {"files": "files.root", "data": "data.folder"}
    dotted = {names.get(flag, f"server.{flag}"): value for flag, value in flags.items()}
    return {**dotted, "tools.modules": tools or None, "files.enabled": False if no_files else None}


@cli.command(
    epilog=examples(
        "mcpd call list_files path=src glob='*.py' recursive=true",
        "mcpd call read_file path=README.md > copy.md",
        "mcpd call word_count text='to be or not' --json",
        "mcpd call slow_tool --timeout 5 --url ws://10.0.0.7:8000/ws --key mcpd_...",
    )
)
@click.argument("tool")
@click.argument("pairs", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--url", default=DEFAULT_URL, show_default=True, help="WebSocket address of the server.")
@click.option("--key", envvar="MCPD_API_KEY", help="API key.  [default: the variable MCPD_API_KEY]")
@click.option("--timeout", type=click.FloatRange(min=0.001), metavar="S", help="Stop the call after so many seconds.")
@as_json
def call(  # noqa: PLR0917
    tool: str, pairs: tuple[str, ...], url: str, key: str | None, timeout: float | None, as_json: bool
) -> int:
    """Call a tool on a running server.

    Values are text where the tool wants text, and JSON elsewhere. Progress goes to stderr; Ctrl-C cancels the call on
    the server.
    """
    from mcpd.commands import calling

    order = calling.Order(tool, pairs, url, key or None, timeout, as_json)
    try:
        return calling.run(order)
    except calling.UsageMistake as error:
        raise click.UsageError(str(error)) from error


@cli.command(
    epilog=examples(
        "mcpd check",
        "mcpd check --config production.toml --tools weather.py",
        "mcpd check --json",
    )
)
@options(COMMON, _SERVED)
@as_json
def check(config_file: Path | None, *, as_json: bool, tools: tuple[str, ...], **flags: Any) -> int:
    """Show the effective configuration, where each value comes from, and what is wrong with it.

    Exits with 1 if the server could not start like this.
    """
    from mcpd.commands import checking

    report = checking.examine(lambda: load(config_file, _flags(tools, **flags)))
    if as_json:
        print_json(report.as_json())
    else:
        click.echo(report.as_text())
    return FAILED if report.problems else 0


@cli.group(
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
    return load(config_file, _flags(data=data)).keys_file


for _command in COMMANDS:
    cli.add_command(_command)
