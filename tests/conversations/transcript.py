"""Transcripts: what a client says and what the server has to answer, as text files that run on every transport.

    A quick call is answered at once (TOOL-2).          the first line: what is shown, and which requirements
    transports: http websocket stdio                         where it runs; default: all three
    eras: stateless 2025-11-25                          in which revisions; `stateful` is all four
    capabilities: {"elicitation": {}}                   the client's; default: none
    handshake: no                                       stateful only: the transcript initializes by itself

    >> {"id": 1, "method": "ping"}                      sent, in the form of the era (marks, headers, `jsonrpc`)
    >>! {"jsonrpc": "2.0"                               sent as it is
    << {"id": 1, "result": {}}                          the next message has to be this one
    <~ {"id": 2, "result": {"...": 0}}                  a run of these may come in any order

In what is expected `"*"` is any value, a member `"..."` allows any others, and `"=NAME"` is any value that is the same
at every place of that name, also in what is sent later. `"$version"` is the revision that runs. What is not expected
must not come: the last answer is followed by one more question, whose answer has to be next.

Called by `test_conversations.py`. Deliberately not: statuses and headers, which are tested where there are any.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from mcpd.wire.versions import STATEFUL, STATELESS

TRANSPORTS = ("http", "websocket", "stdio")
_ERAS = {"stateless": (STATELESS,), "stateful": STATEFUL}


class Step(NamedTuple):
    """One line: its arrow and its text."""

    arrow: str
    text: str
    line: int


class Transcript(NamedTuple):
    """One file."""

    path: Path
    head: dict[str, str]
    steps: list[Step]

    @property
    def transports(self) -> list[str]:
        """Where it runs."""
        return self.head.get("transports", " ".join(TRANSPORTS)).split()

    @property
    def versions(self) -> list[str]:
        """The revisions that it runs in."""
        return [version for era in self.head["eras"].split() for version in _ERAS.get(era, (era,))]

    @property
    def capabilities(self) -> dict[str, Any]:
        """What the client declares."""
        found: dict[str, Any] = json.loads(self.head.get("capabilities", "{}"))
        return found


def read(path: Path) -> Transcript:
    """Read a file. Raises: ValueError for a line that is nothing."""
    head: dict[str, str] = {}
    steps: list[Step] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()[1:], 2):
        arrow, _, text = line.partition(" ")
        if arrow in (">>", ">>!", "<<", "<~"):
            steps.append(Step(arrow, text, number))
        elif line.startswith("  ") and steps:
            steps[-1] = steps[-1]._replace(text=steps[-1].text + line.strip())
        elif ": " in line and not steps:
            name, _, value = line.partition(": ")
            head[name] = value
        elif line.strip() and not line.startswith("#"):
            raise ValueError(f"{path.name}:{number}: {line}")
    return Transcript(path, head, steps)


class Names:
    """Values that a transcript has given names to."""

    def __init__(self, version: str) -> None:
        self._known: dict[str, Any] = {"$version": version}

    def fill(self, value: Any) -> Any:
        """Put known values into what is sent."""
        if isinstance(value, dict):
            return {key: self.fill(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.fill(item) for item in value]
        return self._known.get(value, value) if isinstance(value, str) else value

    def fits(self, expected: Any, found: Any) -> bool:
        """True when `found` is what was expected; names that are met for the first time are then kept."""
        before = dict(self._known)
        if self._fits(expected, found):
            return True
        self._known = before
        return False

    def _fits(self, expected: Any, found: Any) -> bool:
        if isinstance(expected, str) and expected.startswith(("=", "$")):
            same: bool = self._known.setdefault(expected, found) == found
            return same
        if expected == "*":
            return True
        if isinstance(expected, dict) and isinstance(found, dict):
            extra = found.keys() - expected.keys()
            wanted = [key for key in expected if key != "..."]
            known = "..." in expected or not extra
            return known and all(key in found and self._fits(expected[key], found[key]) for key in wanted)
        if isinstance(expected, list) and isinstance(found, list):
            pairs = zip(expected, found, strict=False)
            return len(expected) == len(found) and all(self._fits(*pair) for pair in pairs)
        return type(expected) is type(found) and bool(expected == found)
