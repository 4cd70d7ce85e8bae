"""What one multi-round-trip call knows from its earlier rounds, and the sealed text that carries it.

The server keeps nothing between rounds (MRT-12): answers already given and the results of `once` steps travel in
`requestState`, sealed and bound to caller, method, target and arguments. A retry without state is served too: its
answers are checked against the questions that the function asks again, so nothing is trusted that was not asked.

Called by: `turns` (opens, seals), `authoring.context` (reads, keeps). Pure: time is an argument.

Sources: MCP 2026-07-28 "multi-round-trip requests"; MRT-2..8, MRT-11, SEC-5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from mcpd.errors import InvalidParams, counted
from mcpd.wire.call import Call
from mcpd.wire.jsonrpc import encode
from mcpd.wire.methods import TABLE
from mcpd.wire.sealed import Binding, KeyRing, digest, open_sealed, seal

MAX_ROUNDS_ITEMS = 16
"""Questions of one call, one after another."""
RETURNED = ("inputResponses", "requestState")
"""Parameters with which a client comes back to a call that has asked."""
_UNBOUND = ("_meta", *RETURNED)


class Rounds(msgspec.Struct, eq=False):
    """Answers and kept results of one call, over all its rounds so far."""

    count: int = 0
    _fresh: dict[str, Any] = {}
    _answers: dict[str, Any] = {}
    _results: dict[str, Any] = {}

    @classmethod
    def open(cls, call: Call, ring: KeyRing, *, now: float, max_rounds: int) -> Rounds:
        """Read `requestState` and `inputResponses` of a stateless call; a stateful one knows neither.

        Raises: InvalidParams for a state that is not ours, expired, bound to another call, or one round too many.
        """
        rounds = cls()
        if not call.stateless:
            return rounds
        params = call.params
        state = params.get("requestState")
        if state is not None:
            rounds._restore(open_sealed(ring, state, now=now, expect=binding(call)), max_rounds)
        responses = params.get("inputResponses")
        if responses is not None:
            if not isinstance(responses, dict):
                raise InvalidParams("params.inputResponses must be an object")
            rounds._fresh = responses
        return rounds

    def _restore(self, claims: dict[str, Any], max_rounds: int) -> None:
        self.count, self._answers, self._results = claims["round"], claims["answers"], claims["once"]
        if self.count >= max_rounds:
            raise InvalidParams(f"This call has asked for input {counted(max_rounds, 'time')}; start it anew")

    def seal(self, call: Call, ring: KeyRing, *, now: float, ttl_s: float) -> str:
        """Return the `requestState` for the next round."""
        claims = {"round": self.count + 1, "answers": self._answers, "once": self._results}
        return seal(ring, claims, binding=binding(call), now=now, ttl_s=ttl_s)

    def answer(self, key: str, accept: Callable[[Any], Any]) -> Any:
        """Return the accepted answer to `key`, or None when there is none that `accept` takes (it is asked again)."""
        for source in (self._fresh, self._answers):
            value = accept(source[key]) if key in source else None
            if value is not None:
                self._answers[key] = source[key]
                return value
        return None

    def has_result(self, key: str) -> bool:
        """True when the `once` step `key` has run."""
        return key in self._results

    def result(self, key: str) -> Any:
        """Return what the `once` step `key` gave."""
        return self._results[key]

    def keep(self, key: str, value: Any) -> None:
        """Remember the result of a `once` step. Raises: ValueError, TypeError when it is no JSON value."""
        encode(value)
        self._results[key] = value


def binding(call: Call) -> Binding:
    """Tie a seal to who asks for what: principal, method, target and a digest of the salient parameters (MRT-6)."""
    row = TABLE[call.method]
    target = call.params.get(row.target) if row.target is not None else None
    salient = {key: value for key, value in call.params.items() if key not in _UNBOUND}
    return Binding(principal=call.principal.id, method=call.method, target=str(target), digest=digest(salient))
