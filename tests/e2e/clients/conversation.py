"""What the Python client programs share: their order, the questions they ask the test, and their report.

The test starts a program with one JSON argument (`Order`), answers its questions line by line on stdin, and reads its
report from the last line of stdout. The programs run beside the tests, as processes of their own, because the clients
are asyncio programs; they are never imported by the tests.

Laws: a row that fails is reported with its traceback and the next row runs; a client never judges whether a call was
stopped, it asks (`stopped`), and stays connected until it has the answer.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

import anyio
import anyio.to_thread

Row = Callable[[], Awaitable[Any]]
NOTE = "notes://today"
ROW_S = 15


class Order(NamedTuple):
    """Which era to speak, and how to reach the server: by URL, or by a command with its environment."""

    era: str
    url: str | None = None
    command: list[str] | None = None
    environment: dict[str, str] | None = None


def read_order() -> Order:
    """Return the order that this program was started with."""
    return Order(**json.loads(sys.argv[1]))


def _exchange(question: dict[str, Any]) -> dict[str, Any]:
    print(json.dumps(question), flush=True)
    answer: dict[str, Any] = json.loads(sys.stdin.readline())
    return answer


async def ask(question: str, mark: str) -> dict[str, Any]:
    """Ask the test whether the call that bears `mark` has `started`, or how it has `stopped`."""
    return await anyio.to_thread.run_sync(partial(_exchange, {"ask": question, "mark": mark}))


async def cancelled(call: Callable[[str], Awaitable[Any]], mark: str) -> dict[str, Any]:
    """Start `call(mark)`, cancel it once it runs on the server, and return how the server says it stopped."""
    async with anyio.create_task_group() as group:
        group.start_soon(call, mark)
        await ask("started", mark)
        group.cancel_scope.cancel()
    return await ask("stopped", mark)


async def take(rows: dict[str, Row]) -> dict[str, Any]:
    """Run the rows in order and return what each observed."""
    report: dict[str, Any] = {}
    for name, row in rows.items():
        try:
            with anyio.fail_after(ROW_S):
                report[name] = await row()
        except Exception:  # noqa: BLE001 - whatever a client raises is what the row has to report
            report[name] = {"failed": traceback.format_exc()[-3000:]}
    return report


def finish(report: dict[str, Any]) -> None:
    """Print the report: the last line."""
    print(json.dumps({"report": report}), flush=True)
