"""RESP3, the protocol of Redis and Valkey, as values: bytes in, replies and pushes out, and commands to bytes.

    parser = Parser()
    for item in parser.receive(data):       # as the bytes come, in any pieces
        ...                                 # a reply in the order of the commands, or a Push

A reply is None, bool, int, float, bytes, list, dict or `ErrorReply`. Strings, simple or not, are bytes; sets are lists
in the server's order; big numbers are int; attributes are dropped; the format mark of verbatim strings is taken off.

A push is lifted out wherever it stands: Redis before 7.2 writes the push of a message to oneself into the array of an
EXEC, where it does not count as one of its elements.

Called by: `drivers.redis`. Pure, and knows no command. Deliberately not: RESP2's null (`$-1`) and RESP3's streamed
strings and aggregates, which no server sends.

Laws: no byte is parsed twice, but for the line that a piece ends in; long strings are joined once. Sizes, numbers of
elements and depth are bounded. After a `ProtocolError` the parser is of no use: close the connection.

Sources: the RESP3 specification (redis.io/docs/latest/develop/reference/protocol-spec).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from mcpd.errors import McpdError

_SHOWN_BYTES = 40
"""Of a line that a refusal quotes."""

MAX_BULK_BYTES: Final = 64 << 20
"""Of one string. Servers allow 512 MB; nobody here keeps that much under one key."""

MAX_REPLY_BYTES: Final = 256 << 20
"""Of one reply with all that is in it, `ITEM_BYTES` for each element besides its own bytes."""

MAX_LINE_BYTES: Final = 64 << 10
"""Of a line: an error's text, a simple string, a number. Servers have the same bound for what we send."""

MAX_DEPTH: Final = 32
ITEM_BYTES: Final = 64
"""What a small Python object weighs."""

_END: Final = b"\r\n"
_LONGEST_NUMBER: Final = 4000
"""Digits; below what Python converts without complaint."""


class ProtocolError(McpdError):
    """The peer sent what is no RESP3, or more than was agreed to."""


class ErrorReply(NamedTuple):
    """The server's refusal of one command: `code` is its first word, `text` all of it."""

    code: str
    text: str


class Push(NamedTuple):
    """What the server says unasked: `kind` (`message`, `subscribe`, `invalidate` ...) and what follows."""

    kind: bytes
    items: list[Any]


Argument = bytes | str | int | float


def encode(arguments: Iterable[Argument]) -> bytes:
    """Return one command as an array of strings. Numbers are written in decimal, text as UTF-8."""
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in arguments]
    head = b"*%d\r\n" % len(parts)
    return head + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


class _Aggregate:
    """An aggregate whose elements are still coming: `left` more of them."""

    __slots__ = ("finish", "items", "left")

    def __init__(self, left: int, finish: Callable[[list[Any]], Any]) -> None:
        self.left = left
        self.items: list[Any] = []
        self.finish = finish


class _Dropped:
    """Stands for an attribute, which belongs to the value behind it and is not one."""


_DROPPED: Final = _Dropped()


class Parser:
    """Takes what the server sends, in whatever pieces."""

    def __init__(self, *, max_bulk_bytes: int = MAX_BULK_BYTES, max_reply_bytes: int = MAX_REPLY_BYTES) -> None:
        self._max_bulk_bytes = max_bulk_bytes
        self._max_reply_bytes = max_reply_bytes
        self._tail = b""
        self._parts: list[bytes] = []
        self._missing = 0
        """Bytes of a string under way that have not come, its line end included."""
        self._kind = 0
        self._open: list[_Aggregate] = []
        self._weight = 0
        self._out: list[Any] = []

    @property
    def idle(self) -> bool:
        """True when nothing is half received."""
        return not (self._tail or self._missing or self._open)

    def receive(self, data: bytes) -> list[Any]:
        """Return the replies and pushes that `data` completes. Raises: ProtocolError."""
        out = self._out = []
        if self._missing:
            data = self._continue(data)
        elif self._tail:
            data, self._tail = self._tail + data, b""
        position, end = 0, len(data)
        while position < end:
            stop = data.find(_END, position)
            if stop < 0:
                self._keep(data[position:])
                break
            kind, line = data[position], data[position + 1 : stop]
            position = stop + 2
            if kind in _STRINGS:
                size = _SHORT.get(line)
                if size is None:
                    size = _count(line, self._max_bulk_bytes)
                after = position + size
                if after + 2 > end:
                    self._begin(kind, data[position:], after + 2 - end)
                    break
                if data[after : after + 2] != _END:
                    raise ProtocolError("a string is longer than it said")
                value: Any = data[position:after] if kind == _BULK else _STRINGS[kind](data[position:after])
                position = after + 2
            elif kind in _SCALARS:
                value = _SCALARS[kind](line)
            else:
                self._aggregate(kind, line)
                continue
            if self._open:
                self._put(value, position - stop)
            else:
                out.append(value)
        return out

    def _keep(self, tail: bytes) -> None:
        if len(tail) > MAX_LINE_BYTES:
            raise ProtocolError(f"a line is longer than {MAX_LINE_BYTES} bytes")
        self._tail = tail

    def _begin(self, kind: int, first: bytes, missing: int) -> None:
        self._kind = kind
        self._parts = [first]
        self._missing = missing

    def _continue(self, data: bytes) -> bytes:
        """Add to the string under way; return what comes behind it."""
        taken = data[: self._missing]
        self._parts.append(taken)
        self._missing -= len(taken)
        if self._missing:
            return b""
        value = _STRINGS[self._kind](_joined(self._parts))
        self._parts = []
        self._put(value, len(value) if isinstance(value, bytes) else 0)
        return data[len(taken) :]

    def _aggregate(self, kind: int, line: bytes) -> None:
        if kind not in _AGGREGATES:
            raise ProtocolError(f"no element begins with {bytes([kind])!r}")
        per_item, finish = _AGGREGATES[kind]
        items = _count(line, self._max_reply_bytes // ITEM_BYTES) * per_item
        if len(self._open) >= MAX_DEPTH:
            raise ProtocolError(f"a reply is nested deeper than {MAX_DEPTH}")
        if items:
            self._open.append(_Aggregate(items, finish))
        else:
            self._put(finish([]), 0)

    def _put(self, value: Any, size: int) -> None:
        """Hand a whole value to the aggregate it is in, and that one on when it has become whole."""
        self._weight += size + ITEM_BYTES
        if self._weight > self._max_reply_bytes:
            raise ProtocolError(f"a reply is larger than {self._max_reply_bytes} bytes")
        while value is not _DROPPED:
            if not self._open or type(value) is Push:
                self._out.append(value)
                break
            aggregate = self._open[-1]
            aggregate.items.append(value)
            aggregate.left -= 1
            if aggregate.left:
                return
            self._open.pop()
            value = aggregate.finish(aggregate.items)
        if not self._open:
            self._weight = 0


def _joined(parts: list[bytes]) -> bytes:
    """Return a string that came in pieces, without its line end, which may have come in two of them."""
    last = parts.pop()
    if len(last) == 1:
        last = parts.pop() + last
    if not last.endswith(_END):
        raise ProtocolError("a string is longer than it said")
    return b"".join([*parts, last[:-2]])


def _count(line: bytes, most: int) -> int:
    if not (line.isdigit() and len(line) < 20):
        raise ProtocolError(f"{line[:_SHOWN_BYTES]!r} is no length")
    count = int(line)
    if count > most:
        raise ProtocolError(f"a length of {count} is beyond the bound of {most}")
    return count


def _integer(line: bytes) -> int:
    digits = line[1:] if line[:1] in (b"-", b"+") else line
    if not digits.isdigit() or len(digits) > _LONGEST_NUMBER:
        raise ProtocolError(f"{line[:_SHOWN_BYTES]!r} is no integer")
    return int(line)


def _double(line: bytes) -> float:
    try:
        return float(line)
    except ValueError:
        raise ProtocolError(f"{line[:_SHOWN_BYTES]!r} is no number") from None


def _boolean(line: bytes) -> bool:
    if line not in (b"t", b"f"):
        raise ProtocolError(f"{line[:_SHOWN_BYTES]!r} is no boolean")
    return line == b"t"


def _null(line: bytes) -> None:
    if line:
        raise ProtocolError(f"{line[:_SHOWN_BYTES]!r} behind a null")


def _error(line: bytes) -> ErrorReply:
    text = line.decode("utf-8", "replace")
    return ErrorReply(text.partition(" ")[0], text)


def _same(data: bytes) -> bytes:
    return data


def _verbatim(data: bytes) -> bytes:
    if data[3:4] != b":":
        raise ProtocolError("a verbatim string without a format")
    return data[4:]


def _map(items: list[Any]) -> dict[Any, Any]:
    pairs = iter(items)
    try:
        return dict(zip(pairs, pairs, strict=True))
    except TypeError:
        raise ProtocolError("the key of a map is an aggregate") from None


def _push(items: list[Any]) -> Push:
    if not (items and isinstance(items[0], bytes)):
        raise ProtocolError("a push without a kind")
    return Push(items[0], items[1:])


def _list(items: list[Any]) -> list[Any]:
    return items


def _drop(_items: list[Any]) -> _Dropped:
    return _DROPPED


_BULK: Final = ord("$")
_SHORT: Final = {b"%d" % size: size for size in range(4096)}
"""Most lengths, without a conversion."""

_STRINGS: Final[dict[int, Callable[[bytes], Any]]] = {
    _BULK: _same,
    ord("="): _verbatim,
    ord("!"): _error,
}
_SCALARS: Final[dict[int, Callable[[bytes], Any]]] = {
    ord("+"): _same,
    ord("-"): _error,
    ord(":"): _integer,
    ord(","): _double,
    ord("#"): _boolean,
    ord("("): _integer,
    ord("_"): _null,
}
_AGGREGATES: Final[dict[int, tuple[int, Callable[[list[Any]], Any]]]] = {
    ord("*"): (1, _list),
    ord("~"): (1, _list),
    ord("%"): (2, _map),
    ord(">"): (1, _push),
    ord("|"): (2, _drop),
}
"""Kind -> elements for each one counted, and what to make of them."""
