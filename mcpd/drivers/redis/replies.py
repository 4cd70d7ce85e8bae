"""What came back, as what should have: a reply is checked once, where it is taken apart.

    known, entries = shaped(await redis.run_script(READ), tuple[int, list[bytes]])

Called by: adapters, for each reply that they look into. Pure. Deliberately not in `client`: most replies are thrown
away.

Law: whatever a server answers, or what stands in front of it, its caller gets the promised type or a `RedisError`.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from mcpd.drivers.redis.errors import Garbled

T = TypeVar("T")
_NUMBER_BITS: Final = 64
_SHOWN_CHARS: Final = 60


def shaped(reply: object, form: type[T]) -> T:
    """Return `reply` as `form`, a type as msgspec knows them. Raises: Garbled."""
    try:
        return msgspec.convert(reply, form)
    except msgspec.ValidationError as error:
        raise Garbled(f"the server's reply cannot be understood: {error}", "GARBLED") from None


def number(reply: object) -> int:
    """Return a number of 64 bits, as such or as a script has written it. Raises: Garbled."""
    try:
        found = int(reply) if isinstance(reply, bytes | str | int) else None
    except ValueError:
        found = None
    if found is None or found.bit_length() >= _NUMBER_BITS:
        raise Garbled(f"the server's reply cannot be understood: {str(reply)[:_SHOWN_CHARS]} is no number", "GARBLED")
    return found
