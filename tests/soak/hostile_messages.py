"""JSON-RPC messages that no sound client sends, by name: numbers, sizes, depths and texts out of all proportion.

Each is bytes, or (method, params, meta) to be put into the envelope of either era. Nothing here knows a transport.
Deliberately bounded to some 2 MB: what is to be seen is whether the server bounds its own work, not whether the network
is fast.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

BIG = 10**312
"""Too large for a float."""
INFINITE = json.loads("1e999")


class Hostile(NamedTuple):
    """A request in either era's envelope."""

    method: str
    params: dict[str, Any]
    meta: Mapping[str, Any] = MappingProxyType({})
    request_id: Any = 7


def _call(name: str, arguments: Any, **meta: Any) -> Hostile:
    return Hostile("tools/call", {"name": name, "arguments": arguments}, meta)


def _search(**body: Any) -> Hostile:
    return _call("search_documents", {"query": "ka", **body})


def _patience(value: Any) -> Hostile:
    return Hostile("tools/call", {"name": "echo_async", "arguments": {"text": "x"}}, {"dev.mcpd/timeoutMs": value})


def _initialize(capabilities: Any, version: str = "2025-11-25") -> Hostile:
    info = {"name": "hostile", "version": "1"}
    return Hostile("initialize", {"protocolVersion": version, "capabilities": capabilities, "clientInfo": info})


REQUESTS: dict[str, Hostile] = {
    "patience 10**312": _patience(BIG),
    "patience infinite": _patience(INFINITE),
    "patience negative": _patience(-1),
    "patience tiny": _patience(1e-300),
    "patience text": _patience("soon"),
    "id 10**400": Hostile("tools/list", {}, {}, 10**400),
    "id infinite": Hostile("tools/list", {}, {}, INFINITE),
    "id long": Hostile("tools/list", {}, {}, "i" * 1_000_000),
    "id of arrays": Hostile("tools/list", {}, {}, [[]]),
    "progress token 10**400": Hostile("tools/list", {}, {"progressToken": 10**400}),
    "filters wide and wrong": _search(filters={"metadata.a": [[]] * 60_000}),
    "filters many": _search(filters={f"metadata.f{n}": n for n in range(20_000)}),
    "filters deep": _search(filters={"metadata." + ".".join("a" * 3000): 1}),
    "range infinite": _search(facets=[{"field": "updated", "ranges": [{"from": BIG, "to": INFINITE}]}]),
    "bounds 10**312": _search(filters={"updated": {"gte": BIG}}),
    "size 10**30": _search(size=10**30),
    "size infinite": _search(size=INFINITE),
    "highlight huge": _search(highlight=10**20),
    "cursor of noise": _search(cursor="A" * 100_000),
    "query long": _search(query="ka lo " * 100_000),
    "query of quotes": _call("search_documents", {"query": '"' * 15_000}),
    "query of stars": _call("search_documents", {"query": "a* " * 5_000}),
    "page cursor of noise": Hostile("tools/list", {"cursor": "\ud800" * 10}),
    "arrays wide": _call("echo_async", {"text": [[]] * 300_000}),
    "object wide": _call("echo_async", {f"k{n}": n for n in range(60_000)}),
    "text as object": _call("echo_async", {"text": {"a": {"b": [1] * 100_000}}}),
    "text long": _call("raise_async", {"kind": "k" * 1_000_000}),
    "kind unknown": _call("raise_thread", {"kind": "\x1b[2J\r\n2026-11-28T00:00:00Z error forged"}),
    "surrogate in text": _call("echo_async", {"text": "\ud800"}),
    "surrogate in name": _call("\udfff", {}),
    "surrogate in method": Hostile("\ud83d", {}),
    "surrogate in id": Hostile("tools/list", {}, {}, "\ud800"),
    "tool name long": _call("n" * 1_000_000, {}),
    "read offset 10**400": _call("read_file", {"path": "mcpd.toml", "offset": 10**400}),
    "read offset negative": _call("read_file", {"path": "note.txt", "offset": -1, "max_bytes": BIG}),
    "path outside": _call("read_file", {"path": "../" * 50 + "etc/passwd"}),
    "path with zero": _call("read_file", {"path": "a\x00b"}),
    "glob of stars": _call("list_files", {"path": ".", "recursive": True, "glob": "**/" * 200 + "*" * 200 + "x"}),
    "nap for ever": _call("nap_async", {"seconds": 1e308}, **{"dev.mcpd/timeoutMs": 50}),
    "initialize with 2 MB": _initialize({"experimental": {f"e{n}": {"a": [n] * 5} for n in range(40_000)}}),
    "initialize of tomorrow": _initialize({}, "9999-99-99"),
    "initialize with nothing": Hostile("initialize", {}),
    "listen with 2 MB": Hostile(
        "subscriptions/listen",
        {"notifications": {"resourceSubscriptions": ["docs:///soak/none.txt"]}},
        {f"x{n}": {"a": [n]} for n in range(60_000)},
    ),
    "listen to long URIs": Hostile(
        "subscriptions/listen", {"notifications": {"resourceSubscriptions": ["docs:///" + "u" * 10_000] * 200}}
    ),
    "subscribe to 1 MB": Hostile("resources/subscribe", {"uri": "docs:///" + "u" * 1_000_000}),
    "read 1 MB of URI": Hostile("resources/read", {"uri": "docs:///" + "%41" * 300_000}),
    "read a broken URI": Hostile("resources/read", {"uri": "docs:///%ff%00/../../x#char=1e999,-1"}),
    "read a part 10**400": Hostile("resources/read", {"uri": f"docs:///soak/hot.txt#char=0,{10**400}"}),
    "complete long": Hostile(
        "completion/complete",
        {
            "ref": {"type": "ref/resource", "uri": "docs:///{+path}"},
            "argument": {"name": "path", "value": "%" * 99_999},
        },
    ),
    "prompt with wrong arguments": Hostile("prompts/get", {"name": "review", "arguments": {"a": [1] * 1000}}),
    "level unknown": Hostile("logging/setLevel", {"level": "loud" * 10_000}),
    "retry with a forged state": Hostile(
        "tools/call",
        {"name": "greet", "arguments": {}, "requestState": "A" * 50_000, "inputResponses": {"who": {"action": []}}},
    ),
    "unknown method": Hostile("no/such" * 1000, {}),
}

NOTIFICATIONS: tuple[Hostile, ...] = (
    Hostile("notifications/cancelled", {"requestId": 10**400}),
    Hostile("notifications/cancelled", {"requestId": [[]]}),
    Hostile("notifications/cancelled", {"requestId": 1, "reason": "r" * 1_000_000}),
    Hostile("notifications/progress", {"progressToken": BIG, "progress": INFINITE}),
    Hostile("notifications/roots/list_changed", {"x": [[]] * 10_000}),
)

RAW: dict[str, bytes] = {
    "nothing": b"",
    "spaces": b" " * 100_000,
    "null": b"null",
    "number": b"1e999",
    "deep arrays": b"[" * 200_000,
    "deep objects": b'{"a":' * 100_000,
    "closed deep arrays": b"[" * 5000 + b"]" * 5000,
    "empty batch": b"[]",
    "batch of batches": b"[[],[[]]]",
    "batch of 10,000": b"[" + b'{"jsonrpc":"2.0","id":1,"method":"ping"},' * 9_999 + b"1]",
    "not UTF-8": b'{"jsonrpc":"2.0","id":1,"method":"\xff\xfe"}',
    "UTF-16": '{"jsonrpc":"2.0","id":1,"method":"ping"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"method":"ping"}',
    "two marks": b'\xef\xbb\xbf\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"method":"ping"}',
    "keys twice": b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping","method":"tools/list"}',
    "truncated": b'{"jsonrpc":"2.0","id":1,"method":"pi',
    "two messages": b'{"jsonrpc":"2.0","id":1,"method":"ping"}{"jsonrpc":"2.0","id":2,"method":"ping"}',
    "zero bytes": b"\x00" * 1000,
    "answer to nothing": b'{"jsonrpc":"2.0","id":99999,"result":{}}',
    "error to nothing": b'{"jsonrpc":"2.0","id":null,"error":{"code":1e999,"message":[]}}',
    "params of an array": b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":[1]}',
    "number of 100,000 digits": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":' + b"9" * 100_000 + b"}}",
    "escapes": b'{"jsonrpc":"2.0","id":1,"method":"' + b"\\u0000" * 50_000 + b'"}',
}
"""Name -> what is sent as it is."""


def draw(chance: random.Random) -> tuple[str, Hostile]:
    """Return a hostile request and its name."""
    name = chance.choice(list(REQUESTS))
    return name, REQUESTS[name]
