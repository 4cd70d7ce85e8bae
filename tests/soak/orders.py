"""The calls that honest clients make, and how each answer is judged.

An order is a method, its params and a judge of the whole JSON-RPC answer. Deliberately the same for every transport and
era. The fixed ones are the probes; the others are drawn.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.soak import corpus
from tests.soak.tools import FAILURES

Params = dict[str, Any]


class Order(NamedTuple):
    """One request. `right` takes the answer, a result or an error."""

    method: str
    params: Params
    right: Callable[[Params], bool]

    @property
    def label(self) -> str:
        """What a report calls it."""
        return f"{self.method} {self.params.get('name', '')}".strip()


def tool_call(name: str, arguments: Params, right: Callable[[Params], bool]) -> Order:
    """Return a call of a tool."""
    return Order("tools/call", {"name": name, "arguments": arguments}, right)


def says(text: str) -> Callable[[Params], bool]:
    """Return a judge: the result has exactly this text."""
    return lambda answer: [part.get("text") for part in answer.get("result", {}).get("content", [])] == [text]


def fails(answer: Params) -> bool:
    """Return True when a tool has failed, in whichever way the server puts it."""
    return "error" in answer or answer["result"].get("isError") is True


def value(answer: Params) -> Any:
    """Return the value of a tool's result, which the oldest revision has as text alone; None if there is none."""
    result = answer.get("result", {})
    if result.get("isError") or not result.get("content"):
        return None
    try:
        return json.loads(result["content"][0]["text"])
    except ValueError:
        return None


def finds(uri: str) -> Callable[[Params], bool]:
    """Return a judge: a search has this document among its hits."""
    return lambda answer: uri in [hit["uri"] for hit in (value(answer) or {}).get("hits", [])]


def searched(answer: Params) -> bool:
    """Return True when a search was answered."""
    return "hits" in (value(answer) or {})


def approaches(answer: Params) -> bool:
    """Return True when a search by vectors has found anything; what that is, is not for sure."""
    return bool((value(answer) or {}).get("hits"))


def echo(work: str, text: str) -> Order:
    """Have a text said again."""
    return tool_call(f"echo_{work}", {"text": text}, says(text))


def nap(work: str, seconds: float) -> Order:
    """Have a tool sleep."""
    return tool_call(f"nap_{work}", {"seconds": seconds}, says("rested"))


def counting(steps: int, pause_s: float) -> Order:
    """Have a tool report progress."""
    arguments = {"steps": steps, "pause_s": pause_s}
    return tool_call("count", arguments, lambda answer: value(answer) == {"steps": steps})


def failing(work: str, kind: str) -> Order:
    """Have a tool fail."""
    return tool_call(f"raise_{work}", {"kind": kind}, fails)


def long_text(items: int) -> Order:
    """Have a lot returned."""
    return tool_call("long_text", {"items": items}, says("x" * items))


def anchor_search(number: int, mode: str) -> Order:
    """Look for the word of an anchor."""
    right = approaches if mode == "semantic" else finds(corpus.anchor_uri(number))
    return tool_call("search_documents", {"query": corpus.anchor_word(number), "mode": mode}, right)


def broad_search(chance: random.Random) -> Order:
    """Look for what many documents have."""
    mode = chance.choice(["text", "semantic", "hybrid"])
    query: Params = {"query": corpus.some_words(chance), "mode": mode, "size": chance.choice([1, 10, 50])}
    if chance.random() < 0.4:
        query["filters"] = {"mimeType": "text/plain", "uri": {"prefix": f"docs:///{corpus.NAME}/"}}
    if chance.random() < 0.3:
        query["facets"] = [{"field": "mimeType", "size": 5}, {"field": "updated", "interval": "year"}]
    return tool_call("search_documents", query, searched)


def reading(number: int) -> Order:
    """Read an anchor."""

    def right(answer: Params) -> bool:
        text: str = answer.get("result", {}).get("contents", [{}])[0].get("text", "")
        return text.startswith(corpus.anchor_word(number))

    return Order("resources/read", {"uri": corpus.anchor_uri(number)}, right)


def listing(method: str, member: str) -> Order:
    """List something."""
    return Order(method, {}, lambda answer: bool(answer.get("result", {}).get(member)))


LISTINGS = (
    listing("tools/list", "tools"),
    listing("prompts/list", "prompts"),
    listing("resources/list", "resources"),
    listing("resources/templates/list", "resourceTemplates"),
)
FILE = tool_call("list_files", {"path": "."}, lambda answer: answer.get("result", {}).get("isError") is not True)


def draw(chance: random.Random) -> Order:
    """Return some call."""
    kind = chance.choices(list(_DRAWN), [weight for weight, _ in _DRAWN.values()])[0]
    return _DRAWN[kind][1](chance)


_DRAWN: dict[str, tuple[int, Callable[[random.Random], Order]]] = {
    "echo": (10, lambda c: echo(c.choice(["async", "async", "thread"]), f"text {c.random()}")),
    "nap": (8, lambda c: nap(c.choice(["async", "async", "thread"]), c.uniform(0.01, 0.08))),
    "process": (1, lambda c: nap("process", c.uniform(0.01, 0.05))),
    "count": (4, lambda c: counting(c.randrange(1, 6), 0.01)),
    "failing": (2, lambda c: failing(c.choice(["async", "thread"]), c.choice(list(FAILURES)))),
    "search": (5, broad_search),
    "anchor": (3, lambda c: anchor_search(c.randrange(corpus.ANCHORS), "text")),
    "read": (4, lambda c: reading(c.randrange(corpus.ANCHORS))),
    "list": (3, lambda c: c.choice(LISTINGS)),
    "file": (1, lambda c: FILE),
    "long": (1, lambda c: long_text(c.randrange(1, 400_000))),
}
"""Kind -> weight and maker. Killing a process costs a thousand times what the others cost."""
