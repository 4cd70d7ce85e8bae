"""The client of a stateful session as someone who can be asked: live server-to-client requests.

`ask` sends its questions, waits for all answers, and gives up by telling the client so. Ids are ours and unique within
the session (S2C-2).

Called by: the exchanges of stateful calls; `answer` by whoever reads the client's messages. Deliberately not: the
stateless revision, which never asks live (`wire.rounds`).

Laws: no wait without an end: `timeouts.input_s`, the call's own scope, and the end of the session (S2C-3).

Sources: MCP 2025-11-25 client features; S2C-1..5, INI-4.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from mcpd.deadlines import bounded_shield
from mcpd.errors import ToolError
from mcpd.storage.inbox import ADDRESS
from mcpd.wire import jsonrpc

_ASKED = re.compile(rf"mcpd-({ADDRESS})-[0-9]{{1,16}}")
Send = Callable[[bytes], Awaitable[None]]


class _Question:
    __slots__ = ("answered", "method", "response")

    def __init__(self, method: str) -> None:
        self.method = method
        self.answered = trio.Event()
        self.response: jsonrpc.Response | None = None


class Peer:
    """Questions to one client that wait for their answers."""

    def __init__(self, *, input_s: float, cleanup_s: float, origin: str = "") -> None:
        """`origin` is in all ids, and names this process where others may be given its answers."""
        self._origin = origin
        self._input_s = input_s
        self._cleanup_s = cleanup_s
        self._open: dict[str, _Question] = {}
        self._next = 0
        self._gone = False
        self.ready = trio.Event()
        """Set by `notifications/initialized`; before it the client may not be asked."""

    async def ask(self, requests: dict[str, dict[str, Any]], send: Send) -> dict[str, Any]:
        """Send `{key: {"method", "params"}}`; return the results by key.

        Raises: ToolError when the client answers with an error, does not answer in `input_s`, or its session ends.
        Cancellation: open questions are withdrawn with `notifications/cancelled`.
        """
        ids: dict[str, str] = {}
        try:
            with trio.move_on_after(self._input_s) as patience:
                await self.ready.wait()
                for key, request in requests.items():
                    ids[key] = self._register(request["method"])
                    await send(jsonrpc.request(ids[key], request["method"], request.get("params") or {}))
                for name in ids.values():
                    await self._open[name].answered.wait()
            if patience.cancelled_caught:
                raise ToolError(f"The client did not answer within {self._input_s:g} s")
            return {key: self._result(name) for key, name in ids.items()}
        finally:
            await self._withdraw(ids.values(), send)  # noqa: ASYNC102 - shielded and bounded inside

    def _register(self, method: str) -> str:
        if self._gone:
            raise ToolError("The client's session has ended")
        self._next += 1
        name = f"mcpd-{self._origin}-{self._next}"
        self._open[name] = _Question(method)
        return name

    def _result(self, name: str) -> Any:
        question = self._open[name]
        response = question.response
        if response is None:
            raise ToolError("The client's session has ended")
        if response.error is not None:
            raise ToolError(f"The client refused {question.method}: {response.error.get('message', 'no reason given')}")
        return response.result

    async def _withdraw(self, names: Any, send: Send) -> None:
        unanswered = [name for name in names if not self._open.pop(name).answered.is_set()]
        if unanswered:
            with bounded_shield(self._cleanup_s):
                for name in unanswered:
                    await send(jsonrpc.notification("notifications/cancelled", {"requestId": name}))

    def answer(self, response: jsonrpc.Response) -> bool:
        """Take the client's response; False when nobody waits for it. Not a checkpoint."""
        question = self._open.get(response.id) if isinstance(response.id, str) else None
        if question is None or question.answered.is_set():
            return False
        question.response = response
        question.answered.set()
        return True

    def leave(self) -> None:
        """The session has ended: whoever waits learns it now. Not a checkpoint."""
        self._gone = True
        self.ready.set()
        for question in self._open.values():
            question.answered.set()


def asker_of(question: object) -> str | None:
    """Return the address of the process that asked a question with this id; None for what is no id of ours."""
    found = _ASKED.fullmatch(question) if isinstance(question, str) else None
    return None if found is None else found[1]
