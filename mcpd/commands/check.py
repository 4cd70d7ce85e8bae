"""`mcpd check`: what it is called and takes.

Exits with 1 when the server could not start, or would start degraded.

Called by: `cli`, which adds the command. Deliberately not: anything but click; the work is imported when it
runs (`checking`).

Sources: surfaces "Command line".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mcpd.commands.options import COMMON, FAILED, SERVED, as_json, examples, flags, load, options, print_json


@click.command(
    epilog=examples(
        "mcpd check",
        "mcpd check --config production.toml --tools weather.py",
        "mcpd check --json",
    )
)
@options(COMMON, SERVED)
@as_json
def check(config_file: Path | None, *, as_json: bool, tools: tuple[str, ...], **given: Any) -> int:
    """Show the effective configuration, where each value comes from, and what is wrong with it.

    Exits with 1 if a server could not start like this, or not with all its parts.
    """
    from mcpd.commands import checking

    report = checking.examine(lambda: load(config_file, flags(tools, **given)))
    if as_json:
        print_json(report.as_json())
    else:
        click.echo(report.as_text())
    return FAILED if report.problems else 0
