"""What a claim says of who makes it."""

from __future__ import annotations

from mcpd.idempotency import _claim_of
from mcpd.wire.call import Call


def claim(key: str, **arguments: int) -> str:
    params = {"name": "t", "arguments": arguments}
    call = Call(method="tools/call", params=params, version="2026-07-28", transport="http", idempotency_key=key)
    return _claim_of(call).token


def test_a_process_claims_a_key_again_as_itself() -> None:
    """Else a claim whose reply was lost would be busy for as long as the process lives, and nobody would run it."""
    assert claim("k", a=1) == claim("k", a=1)
    assert len({claim("k", a=1), claim("k", a=2), claim("l", a=1)}) == 3
