"""Results in the form of a revision: one sieve between the version-neutral core and the wire.

The core builds results once, in the form of 2026-07-28. `complete` adds what that revision wants on every result;
`sift` takes away what an older one does not know, or rewrites it so that an old typed client can still read it: a
result that is no object becomes the member `result` of one, and so does its schema (`wire.old_schemas`).

Called by: `messages.manager`. Deliberately not here: what differs in errors (`errors.facing`) or in methods
(`wire.methods`).

Sources: RES-1..4, SIE-1..3, TOOL-1, TOOL-3; table 3.9.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mcpd.wire.envelope import SERVER_KEY
from mcpd.wire.old_schemas import RESULT, object_output, without_booleans
from mcpd.wire.versions import can

Result = dict[str, Any]
_NOT_STATEFUL = ("resultType", "ttlMs", "cacheScope")


def complete(result: Result, server: dict[str, Any]) -> Result:
    """Add `resultType` (unless set) and `_meta` server info to a stateless result, in place."""
    result.setdefault("resultType", "complete")
    meta = result.get("_meta")
    result["_meta"] = {SERVER_KEY: server} if meta is None else {**meta, SERVER_KEY: server}
    return result


def failed(text: str) -> Result:
    """Return the result of a tool that failed; `text` is for the model."""
    sound = text.encode("utf-8", "backslashreplace").decode()
    return {"content": [{"type": "text", "text": sound}], "isError": True}


def sift(result: Result, method: str, version: str) -> Result:
    """Return `result` as the stateful revision `version` knows it; the argument is left alone."""
    kept = {key: value for key, value in result.items() if key not in _NOT_STATEFUL}
    shape = _SHAPES.get(method)
    return kept if shape is None else shape(kept, version)


def _tools(result: Result, version: str) -> Result:
    result["tools"] = [_tool(tool, version) for tool in result["tools"]]
    return result


def _tool(tool: Result, version: str) -> Result:
    tool = _named(tool, version)
    if not can(version, "annotations"):
        tool.pop("annotations", None)
    tool["inputSchema"] = without_booleans(tool["inputSchema"])
    output = tool.pop("outputSchema", None)
    if output is not None and can(version, "structured"):
        output = object_output(output)
        if output is not None:
            tool["outputSchema"] = output
    return tool


def _named(entry: Result, version: str) -> Result:
    entry = dict(entry)
    if not can(version, "title"):
        entry.pop("title", None)
        entry.pop("_meta", None)
    if not can(version, "icons"):
        entry.pop("icons", None)
    return entry


def _entries(key: str) -> Callable[[Result, str], Result]:
    def shape(result: Result, version: str) -> Result:
        result[key] = [_named(entry, version) for entry in result[key]]
        return result

    return shape


def _call(result: Result, version: str) -> Result:
    structured = result.get("structuredContent")
    if "structuredContent" in result:
        if not can(version, "structured"):
            del result["structuredContent"]
        elif not isinstance(structured, dict):
            result["structuredContent"] = {RESULT: structured}
    result["content"] = [_block(block, version) for block in result["content"]]
    return result


def _prompt(result: Result, version: str) -> Result:
    result["messages"] = [{**m, "content": _block(m["content"], version)} for m in result["messages"]]
    return result


def _block(block: Result, version: str) -> Result:
    kind = block["type"]
    if kind == "audio" and not can(version, "audio"):
        return {"type": "text", "text": f"[audio, {block['mimeType']}: this protocol revision cannot carry it]"}
    if kind == "resource_link" and not can(version, "resource_link"):
        return {"type": "text", "text": f"{block.get('title') or block['name']}: {block['uri']}"}
    return block


_SHAPES: dict[str, Callable[[Result, str], Result]] = {
    "tools/list": _tools,
    "tools/call": _call,
    "prompts/list": _entries("prompts"),
    "prompts/get": _prompt,
    "resources/list": _entries("resources"),
    "resources/templates/list": _entries("resourceTemplates"),
}
