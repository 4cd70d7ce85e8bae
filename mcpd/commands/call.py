"""`mcpd call`: what it is called and takes.

Loads no server.

Called by: `cli`, which adds the command. Deliberately not: anything but click; the work is imported when it
runs (`calling`).

Sources: surfaces "Command line".
"""

from __future__ import annotations

from typing import Final

import click

from mcpd.commands.options import as_json, examples

DEFAULT_URL: Final = "ws://127.0.0.1:8000/ws"


@click.command(
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
