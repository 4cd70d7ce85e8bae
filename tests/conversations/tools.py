"""The tools, resources and prompts that transcripts and socket tests talk to.

Each does one thing that a conversation can see: answer, say something on the way, ask, hold until it is cancelled,
fail, crash, announce a change. Loaded by `mcpd serve --tools` and `mcpd stdio --tools`. Deliberately not: an example of
how to write tools, nor what the official suite wants (`tests/conformance/fixture.py`).
"""

from __future__ import annotations

import builtins
import subprocess
from typing import Annotated, Any

import trio

from mcpd import (
    Audio,
    Context,
    Elicit,
    Embedded,
    Meta,
    ResourceLink,
    Roots,
    Sample,
    Text,
    ToolError,
    completion,
    prompt,
    resource,
    tool,
)

gates: dict[str, trio.Event] = {}
ended: list[str] = []
"""Names of the held calls that were cancelled, in order."""


def gate(name: str) -> trio.Event:
    """Return what calls of this name wait for."""
    return gates.setdefault(name, trio.Event())


@tool(title="Echo", annotations={"readOnlyHint": True}, icons=[{"src": "https://example.org/echo.png"}])
async def echo(text: str = "") -> str:
    """Say it again."""
    return text


@tool
def echo_in_thread(text: str, ctx: Context) -> str:
    """Say it again, from a thread."""
    blocking: Any = ctx
    blocking.progress(1, 2)
    return text


@tool
def shout() -> str:
    """Write to stdout, as libraries do, and let a child process do it too."""
    print("printed")
    subprocess.run(["echo", "echoed"], check=True)
    return "shouted"


@tool
async def add(a: int, b: int) -> dict[str, int]:
    """Add two numbers."""
    return {"sum": a + b}


@tool
async def numbers() -> list[int]:
    """Return an array."""
    return [1, 2, 3]


@tool
async def media() -> list[Text | Audio | ResourceLink | Embedded]:
    """Return content of several kinds."""
    return [
        Audio(b"\x00\x01"),
        ResourceLink("note:///one", "one"),
        Embedded("note:///one", text="first", mime_type="text/plain"),
    ]


@tool(input_schema={"type": "object", "properties": {"anything": True, "word": {"type": "string"}}})
async def open_schema(anything: Any = None, word: str = "") -> str:
    """Take anything."""
    return f"{anything!r} {word}"


@tool
async def fail() -> str:
    """Fail, as a tool fails."""
    raise ToolError("This did not work")


@tool
async def crash() -> str:
    """Fail, as a program fails."""
    raise RuntimeError("secret detail")


def raised(what: str) -> BaseException:
    """Make an exception that is no `Exception`, by the name of its class."""
    if what == "Cancelled":
        return trio.Cancelled._create(source="unknown")
    kind: type[BaseException] = getattr(builtins, what)
    return kind()


@tool
async def collapse(what: str) -> str:
    """Raise what no tool should."""
    raise raised(what)


@tool
def collapse_in_thread(what: str) -> str:
    """Raise what no tool should, in a thread."""
    raise raised(what)


@tool
async def not_a_number() -> dict[str, float]:
    """Return what JSON cannot say."""
    return {"value": float("nan")}


@tool
async def lone_surrogate() -> str:
    """Return what UTF-8 cannot say."""
    return "\ud800"


@tool
async def count(ctx: Context) -> str:
    """Report progress from one to three, once a step backwards."""
    for done in (1, 1, 3):
        await ctx.progress(done, 3, f"step {done}")
    return "counted"


@tool
async def say(ctx: Context) -> str:
    """Log one line of each of three levels."""
    for level in ("debug", "info", "error"):
        await ctx.log(level, f"a line of level {level}", logger="tests")
    return "said"


async def wait_cancelled(name: str) -> None:
    """Wait for ever, and note when that was cut short."""
    try:
        await trio.Event().wait()
    finally:
        ended.append(name)


@tool
async def hold(ctx: Context, name: str = "held") -> str:
    """Say that it has started, then wait to be cancelled."""
    await ctx.progress(1)
    await wait_cancelled(name)
    return "never"


@tool
async def hold_in_silence(name: str = "silent") -> str:
    """Wait to be cancelled."""
    await wait_cancelled(name)
    return "never"


@tool
async def cancelled_calls() -> list[str]:
    """Return the names of held calls that were cancelled."""
    return ended


@tool(timeout_s=0.05)
async def slow() -> str:
    """Need longer than it may."""
    await trio.Event().wait()
    return "never"


@tool
async def come_back(ctx: Context, name: str = "", retry_ms: int = 10) -> str:
    """Let the client's stream go, and answer when `go_on` was called with the same name."""
    ctx.release_stream(retry_ms)
    await gate(name).wait()
    return "welcome back"


@tool
async def tell_and_wait(ctx: Context, name: str = "") -> str:
    """Say something, and answer when `go_on` was called with the same name."""
    await ctx.progress(1)
    await gate(name).wait()
    return "told"


@tool
async def go_on(name: str = "") -> str:
    """Let the calls waiting under this name answer."""
    gate(name).set()
    return "going on"


@tool
async def greet(ctx: Context) -> str:
    """Ask for a name."""
    answer = await ctx.elicit(user_name=Elicit("What is your name?", fields={"name": str}))
    return f"Hello, {answer.content['name']}!" if answer.accepted else "Hello!"


@tool
def greet_in_thread(ctx: Context) -> str:
    """Ask for a name, from a thread."""
    answer: Any = ctx.elicit(user_name=Elicit("What is your name?", fields={"name": str}))
    return f"Hello, {answer.content['name']}!"


@tool
async def two_rounds(ctx: Context) -> str:
    """Ask twice, with a step in between that runs once."""
    first = await ctx.elicit(first=Elicit("First?", fields={"value": str}))
    step = await ctx.once("step", lambda: "stepped")
    second = await ctx.elicit(second=Elicit("Second?", fields={"value": str}))
    return f"{first.content['value']} {step} {second.content['value']}"


@tool
async def interview(ctx: Context) -> str:
    """Ask for three things of three kinds at once."""
    answers = await ctx.ask(
        user_name=Elicit("What is your name?", fields={"name": str}), reply=Sample("Hi", max_tokens=10), places=Roots()
    )
    return f"{answers['user_name'].content['name']} {answers['reply'].text} {answers['places'][0].uri}"


@tool
async def needs_sampling(ctx: Context) -> str:
    """Serve only clients with a model."""
    ctx.require("sampling")
    return "The client has a model."


@tool
async def change(ctx: Context, kind: str, uri: str | None = None) -> str:
    """Announce a change."""
    ctx.changed(kind, uri)
    return "announced"


@tool
async def region(
    where: Annotated[str, Meta(extra_json_schema={"x-mcp-header": "Region"})],
    level: Annotated[int | None, Meta(description="Not mirrored.")] = None,
) -> str:
    """Take an argument that is mirrored in a header."""
    return f"{where} {level}"


@tool(scopes=["vault"])
async def vault(transport: Annotated[str, Meta(extra_json_schema={"x-mcp-header": "Transport"})] = "front") -> str:
    """Open only to keys with its own scope."""
    return transport


@resource("note:///one", name="one", title="One", mime_type="text/plain", ttl_ms=60_000, cache_scope="public")
async def note_one() -> str:
    """A note."""
    return "first"


@resource("note:///{id}/copy", name="copies", mime_type="text/plain")
async def note_copy(id: str) -> str:  # noqa: A002 - the variable of the template
    """A copy of any note."""
    return f"copy of {id}"


@resource("note:///asked", name="asked", ttl_ms=60_000, cache_scope="public")
async def note_asked(ctx: Context) -> str:
    """A note that asks who reads it."""
    answer = await ctx.elicit(reader=Elicit("Who reads?", fields={"name": str}))
    return f"for {answer.content['name']}"


@resource("collapse:///{what}")
async def collapsing_note(what: str) -> str:
    """A note that raises what none should."""
    raise raised(what)


@prompt(title="Welcome")
async def welcome(name: str) -> str:
    """Welcome somebody.

    Args:
        name: Whom.
    """
    return f"Welcome, {name}."


@prompt
async def sound() -> list[Any]:
    """A prompt with a sound."""
    return [Audio(b"\x00\x01")]


@prompt
async def asked(ctx: Context) -> str:
    """A prompt that asks first."""
    answer = await ctx.elicit(topic=Elicit("About what?", fields={"topic": str}))
    return f"Write about {answer.content['topic']}."


@prompt
async def collapsing(what: str) -> str:
    """A prompt that raises what none should."""
    raise raised(what)


@completion(for_="welcome", argument="name")
async def names(value: str) -> list[str]:
    """Complete a name."""
    return [name for name in ("Ada", "Alan", "Grace") if name.startswith(value)]


@completion(for_="collapsing", argument="what")
async def collapse_while_completing(value: str) -> list[str]:
    """Raise what no completion should."""
    raise raised(value)


@completion(for_="note:///{id}/copy", argument="id")
async def ask_while_completing(value: str, ctx: Context) -> list[str]:
    """Do what no completion may do."""
    await ctx.elicit(why=Elicit("Why?", fields={"why": str}))
    return [value]


@tool(task="required")
async def hold_as_task() -> None:
    """Work until the task is cancelled."""
    await trio.sleep_forever()
