"""`mcpd records`: what it is called and takes.

Called by: `cli`, which adds the command. Deliberately not: anything but click; the work is imported when it runs
(`recording`).

Sources: surfaces "Command line".
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from mcpd.commands.options import COMMON, as_json, configured, examples, options

OUTCOMES = ("ok", "tool_error", "protocol_error", "cancelled", "deadline", "rejected", "internal_error")
SHOWN_ITEMS = 50
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def _moment(_context: click.Context, _parameter: click.Parameter, text: str | None) -> float | None:
    """Return seconds since the epoch: of an ISO 8601 time, UTC unless it says otherwise, or of so long ago."""
    if text is None:
        return None
    if re.fullmatch("[0-9]{1,10}[smhdw]", text):
        return time.time() - int(text[:-1]) * _SECONDS[text[-1]]
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{text!r} is no time such as 2026-07-28T09:30, 90m or 7d") from None


@click.command(
    epilog=examples(
        "mcpd records",
        "mcpd records --tool write_file --since 7d",
        "mcpd records --principal laptop --outcome rejected",
        "mcpd records --request 5f0c2a --json",
        "mcpd records --since 2026-07-28 --until 2026-07-29 --limit 1000 --json",
    )
)
@click.option("--tool", metavar="NAME", help="Only calls of this tool.")
@click.option("--target", metavar="NAME|URI", help="Only calls of this tool or prompt, or about this URI or task.")
@click.option("--method", metavar="M", help="Only calls of this method, such as tools/call.")
@click.option("--principal", metavar="KEY", help="Only calls with this key, by its name or id.")
@click.option("--outcome", type=click.Choice(OUTCOMES), help="Only calls that ended so.")
@click.option("--request", "request_id", metavar="ID", help="Only the call with this request id.")
@click.option("--since", "since_s", callback=_moment, metavar="TIME", help="Ended then or later: 2026-07-28T09:30, 7d.")
@click.option("--until", "until_s", callback=_moment, metavar="TIME", help="Ended before that time.")
@click.option("--limit", type=click.IntRange(min=1), default=SHOWN_ITEMS, show_default=True, metavar="N")
@click.option("--cursor", metavar="C", help="Go on behind a page: nextCursor of its JSON.")
@options(COMMON)
@as_json
def records(
    config_file: Path | None, data: Path | None, limit: int, cursor: str | None, as_json: bool, **wanted: Any
) -> int:
    """Show who called what, when and how it ended, newest first.

    Reads the data folder of this configuration, whether or not a server is running on it.
    """
    from mcpd.commands import recording

    tool = wanted.pop("tool")
    if tool is not None:
        if wanted["target"] or wanted["method"] not in (None, "tools/call"):
            raise click.UsageError("--tool stands for --method tools/call --target NAME; leave those out")
        wanted.update(method="tools/call", target=tool)
    query = recording.query(**wanted)
    return recording.show(query, recording.Part(cursor, limit), configured(config_file, data), as_json=as_json)
