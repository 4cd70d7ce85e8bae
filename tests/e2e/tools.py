"""The tools, resources and prompt that real clients meet in the end-to-end tests.

Loaded by a real server (`--tools tests/e2e/tools.py`), over HTTP, WebSocket and stdio alike. A call that is stopped
leaves a trace that does not depend on the client: `linger` writes `<mark>.started`, and from its `finally`
`<mark>.stopped`, into the folder `$MCPD_E2E_MARKS`. Deliberately not: anything a test asserts by itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypedDict

import trio

from mcpd import Context, Elicit, ToolError, prompt, resource, tool

NOTE = "notes://today"


class Measures(TypedDict):
    """What `measure` found."""

    words: int
    longest: str


def revision() -> int:
    """Return the revision of the note, which all servers with the same marks have in common."""
    written = Path(os.environ["MCPD_E2E_MARKS"]) / "revision"
    return int(written.read_text()) if written.exists() else 0


@tool
async def echo(text: str) -> str:
    """Say the text again."""
    return text


@tool
async def measure(text: str) -> Measures:
    """Measure a text."""
    words = text.split()
    return {"words": len(words), "longest": max(words, key=len)}


@tool
async def refuse() -> str:
    """Fail, as a tool may."""
    raise ToolError("not today")


@tool
async def count(steps: int, ctx: Context) -> str:
    """Report progress for each step."""
    for step in range(1, steps + 1):
        await ctx.progress(step, steps, f"step {step}")
        await trio.sleep(0.03)
    return f"{steps} steps"


@tool
async def greet(ctx: Context) -> str:
    """Ask for a name and greet whoever it is."""
    answer = await ctx.elicit(who=Elicit("What is your name?", fields={"name": str}))
    return f"Hello, {answer.content['name']}!" if answer.accepted else f"You said {answer.action}."


@tool
async def touch(ctx: Context) -> str:
    """Write a new revision of the note and tell everybody who watches it."""
    number = revision() + 1
    (Path(os.environ["MCPD_E2E_MARKS"]) / "revision").write_text(str(number))
    ctx.changed("resource", NOTE)
    return f"revision {number}"


@tool
async def linger(mark: str, speak: bool, ctx: Context) -> str:
    """Run until cancelled; `speak` sends progress first, so that an HTTP reply is already a stream."""
    marks = Path(os.environ["MCPD_E2E_MARKS"])
    how = "failed"
    if speak:
        await ctx.progress(1, message="lingering")
    try:
        (marks / f"{mark}.started").touch()
        await trio.sleep_forever()
    except trio.Cancelled:
        how = "cancelled"
        raise
    finally:
        (marks / f"{mark}.stopped").write_text(how)


@resource(NOTE, name="today", mime_type="text/plain")
def today() -> str:
    """The note of the day."""
    return f"revision {revision()}"


@resource("notes://past/{day}", name="past", mime_type="text/plain")
def past(day: str) -> str:
    """An older note."""
    return f"the note of {day}"


@prompt
def review(topic: str) -> str:
    """Ask for a review.

    Args:
        topic: What to review.
    """
    return f"Please review {topic}."
