"""What `mcpd call` does around the client: words to arguments, a result to text, progress to one line.

The command line knows only words (`depth=3`), a tool's schema knows types; `read_arguments` brings the two together,
so that `text=3` stays text for a tool that wants text. `run` is the whole command, from connection to exit code.

Called by: `commands`. Calls `client`. Deliberately not: validation of arguments, which is the server's.

Laws: the result goes to stdout and everything else to stderr, as it is, unless a terminal would obey what is in it; the
first Ctrl-C cancels the call on the server, the second ends the process at once.

Sources: surfaces "Command line"; CAN-3, PRG-1, TOOL-4.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple, Self

import click

from mcpd.client import Client, RequestFailed, open_client
from mcpd.commands import terminal
from mcpd.errors import McpdError, counted
from mcpd.signals import INTERRUPTED, Interrupted, run_until_interrupted

MAX_NAMED_TOOLS: Final = 10
"""Tools that are named to whoever asked for one that is not there."""
MAX_SCHEMAS: Final = 100
"""Alternatives and references that are looked through for the types of an argument."""
MAX_PROGRESS_CHARS: Final = 200


class UsageMistake(McpdError):
    """The words on the command line cannot be arguments of the tool."""


class CallFailed(McpdError):
    """The server refused the call; the text says why and what to do."""


class Order(NamedTuple):
    """One call as it was ordered on the command line."""

    tool: str
    pairs: tuple[str, ...]
    url: str
    key: str | None
    timeout_s: float | None
    as_json: bool


def run(order: Order) -> int:
    """Call the tool, print what comes, and return the exit code.

    Raises: UsageMistake, CallFailed, ConfigurationError, client.ConnectionFailed, client.RequestFailed.
    """
    try:
        return run_until_interrupted(partial(_call, order))
    except Interrupted:
        return INTERRUPTED


async def _call(order: Order) -> int:
    async with open_client(order.url, key=order.key) as client:
        with _known_to_mcp():
            arguments = read_arguments(order.pairs, await _schema(client, order.tool))
        with Progress() as progress:
            try:
                result = await client.call_tool(
                    order.tool, arguments, on_progress=progress.show, timeout_s=order.timeout_s
                )
            except RequestFailed as error:
                raise CallFailed(explain(error)) from error
    with _known_to_mcp():
        return _print(result, as_json=order.as_json)


@contextmanager
def _known_to_mcp() -> Iterator[None]:
    """Name the server where what it sent has another shape than MCP says. Raises: CallFailed."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CallFailed(f"the server sent what is none of MCP ({type(error).__name__}: {error})") from error


def explain(error: RequestFailed) -> str:
    """Return the refusal with what its data say to whoever runs `mcpd call`: where to look, or what to use instead."""
    data = error.data if isinstance(error.data, dict) else {}
    if "requestId" in data:
        return f"{error}; the server's log says why, under {data['requestId']}"
    if "requiredCapabilities" in data:
        needed = data["requiredCapabilities"]
        extension = isinstance(needed, dict) and "extensions" in needed
        lacks = "knows no extensions" if extension else "cannot answer questions of a tool"
        return f"{error}. `mcpd call` {lacks}: use an MCP client that does"
    return str(error)


async def _schema(client: Client, tool: str) -> dict[str, Any]:
    tools = {item["name"]: item for item in await client.list_tools()}
    if tool not in tools:
        raise UsageMistake(f"the server has no tool {tool!r}; {offer(tool, sorted(tools))}")
    schema: dict[str, Any] = tools[tool]["inputSchema"]
    return schema


def offer(tool: str, names: list[str]) -> str:
    """Say what there is to whoever asked for a tool that is not there."""
    near = difflib.get_close_matches(tool, names, n=1)
    if near:
        return f"the nearest is {near[0]!r}"
    more = f" and {len(names) - MAX_NAMED_TOOLS} more" if len(names) > MAX_NAMED_TOOLS else ""
    return f"it has: {', '.join(names[:MAX_NAMED_TOOLS]) or 'none'}{more}"


def read_arguments(pairs: Iterable[str], schema: dict[str, Any]) -> dict[str, Any]:
    """Turn `name=value` words into arguments: text where the schema admits text, JSON elsewhere.

    Raises: UsageMistake.
    """
    arguments: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UsageMistake(f"{pair!r}: arguments are written name=value")
        if name in arguments:
            raise UsageMistake(f"{name} is given twice")
        arguments[name] = _value(name, text, schema)
    return arguments


def _value(name: str, text: str, schema: dict[str, Any]) -> Any:
    kinds = _kinds(schema.get("properties", {}).get(name, {}), schema)
    if "string" in kinds:
        return text
    try:
        return json.loads(text)
    except ValueError:
        if kinds:
            wanted = " or ".join(sorted(kinds))
            raise UsageMistake(f"{name}={text}: the tool wants {wanted}, written as JSON") from None
        return text


def _kinds(schema: Any, root: dict[str, Any]) -> set[str]:
    """Collect the JSON types a schema names, through local references and alternatives; empty when it names none."""
    kinds: set[str] = set()
    waiting, seen = [schema], 0
    while waiting and seen < MAX_SCHEMAS:
        item, seen = waiting.pop(), seen + 1
        if not isinstance(item, dict):
            continue
        named = item.get("type", [])
        kinds.update([named] if isinstance(named, str) else named)
        kinds.update("string" for value in item.get("enum", [item.get("const")]) if isinstance(value, str))
        for keyword in ("anyOf", "oneOf", "allOf"):
            waiting.extend(item.get(keyword, []))
        if str(item.get("$ref", "")).startswith("#/$defs/"):
            waiting.append(root.get("$defs", {}).get(item["$ref"].removeprefix("#/$defs/")))
    return kinds


def _print(result: dict[str, Any], *, as_json: bool) -> int:
    failed = bool(result.get("isError"))
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False, indent=2))
    elif result.get("resultType") == "input_required":
        click.echo("mcpd: the tool asks for input, which `mcpd call` cannot give", err=True)
        return 1
    else:
        show(result.get("content", []), failed=failed)
    return 1 if failed else 0


def show(content: list[dict[str, Any]], *, failed: bool) -> None:
    """Print content blocks: what is for the user to stdout, the rest and failures to stderr."""
    for block in content:
        for_others = "user" not in (block.get("annotations") or {}).get("audience", ["user"])
        to_stderr = failed or for_others
        text = render([block])
        if (sys.stderr if to_stderr else sys.stdout).isatty():
            text = terminal.clean(text)
        click.echo(text, nl=not text.endswith("\n"), err=to_stderr, color=True)


def render(content: Iterable[dict[str, Any]]) -> str:
    """Return the text of content blocks, one below the other; what is not text is described in brackets."""
    return "\n".join(_block(block) for block in content)


def _block(block: dict[str, Any]) -> str:
    kind = block.get("type")
    if kind == "text":
        return str(block.get("text", ""))
    if kind == "resource_link":
        return f"[link to {block.get('uri')}]"
    inner = block.get("resource", block)
    if "text" in inner:
        return str(inner["text"])
    data = str(inner.get("data", inner.get("blob", "")))
    size = len(data) * 3 // 4 - data[-2:].count("=")
    return f"[{kind}, {inner.get('mimeType', 'unknown type')}, {counted(size, 'byte')}; --json shows it]"


class Progress:
    """Shows progress on stderr: one line that rewrites itself on a terminal, one line a step elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live and self._shown:
            click.echo("\r\x1b[K", nl=False, err=True)

    def show(self, params: dict[str, Any]) -> None:
        """Show one progress notification; one that is none is left out."""
        try:
            text = describe_progress(params)
        except (ArithmeticError, TypeError, ValueError):
            return
        self._shown = True
        click.echo(("\r\x1b[K" if self._live else "") + text, nl=not self._live, err=True)


def describe_progress(params: dict[str, Any]) -> str:
    """Put a progress notification into a few words, such as ` 40% 2/5 reading`."""
    done, total = params.get("progress", 0), params.get("total")
    counted = f"{done / total:4.0%} {done:g}/{total:g}" if total else f"{done:g}"
    return f"{counted} {terminal.line(str(params.get('message') or ''))}".rstrip()[:MAX_PROGRESS_CHARS]
