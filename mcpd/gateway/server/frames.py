"""What has come of a WebSocket, cut at the ends of its frames.

Nearly every frame of a client is a short text that is a whole message and has come in one piece. Such a frame is taken
apart here, at a tenth of what the general parser costs; any other goes to that parser as it is, frame by frame, so that
it holds nothing when the next one begins.

Called by: `gateway.server.rfc6455`. Pure: bytes and values. Deliberately not: judging frames; one that is not plainly
sound is the general parser's.

Laws: no byte is taken twice or left out; a header that is not complete waits here, at most 13 bytes of it.

Sources: RFC 6455 sections 5.2 and 5.3.
"""

from __future__ import annotations

from typing import Final

_WHOLE_TEXT: Final = 0x81
_MASKED: Final = 0x80
_LENGTHS: Final = {126: 2, 127: 8}
"""Bytes that a longer length has, by what stands in the place of a short one."""
_MASK_BYTES: Final = 4


class Frames:
    """The frames that one client has sent. `max_bytes` bounds the messages that are taken apart here."""

    __slots__ = ("_at", "_data", "_max_bytes", "_owed")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._data = b""
        self._at = 0
        self._owed = 0
        """Bytes of the present frame that have not come yet, or were not taken."""

    def feed(self, data: bytes) -> None:
        """Add what has come. Everything before it has been taken, but for a header that is not complete."""
        self._data, self._at = self._data[self._at :] + data, 0

    @property
    def unfinished(self) -> bool:
        """True when a frame has begun of which more has to come, once `part` has returned nothing."""
        return self._owed > 0 or self._at < len(self._data)

    def text(self) -> str | None:
        """Take the next frame if it is a whole message of text; None when it has to be taken by `part`."""
        data, at = self._data, self._at
        if self._owed or len(data) - at < 2 or data[at] != _WHOLE_TEXT or data[at + 1] < _MASKED:
            return None
        size, at = data[at + 1] - _MASKED, at + 2
        if size == 126:
            size, at = int.from_bytes(data[at : at + 2]), at + 2
        if size > self._max_bytes or (size < 126) != (at - self._at == 2) or len(data) < at + _MASK_BYTES + size:
            return None
        try:
            text = _unmasked(data, at, size).decode()
        except UnicodeDecodeError:
            return None
        self._at = at + _MASK_BYTES + size
        return text

    def part(self) -> bytes:
        """Take the next frame, or what has come of it; nothing when more has to come first."""
        if not self._owed:
            self._owed = self._size()
        part = self._data[self._at : self._at + self._owed]
        self._at += len(part)
        self._owed -= len(part)
        return part

    def _size(self) -> int:
        """Return how long the next frame is, 0 when its header is not complete."""
        data, at = self._data, self._at
        if len(data) - at < 2:
            return 0
        size, masked = data[at + 1] & 0x7F, data[at + 1] & _MASKED
        more = _LENGTHS.get(size, 0)
        if len(data) - at < 2 + more:
            return 0
        if more:
            size = int.from_bytes(data[at + 2 : at + 2 + more])
        return 2 + more + (_MASK_BYTES if masked else 0) + size


def _unmasked(data: bytes, at: int, size: int) -> bytes:
    """Return the payload behind the mask at `at`."""
    begin = at + _MASK_BYTES
    mask = (data[at:begin] * (size // _MASK_BYTES + 1))[:size]
    return (int.from_bytes(data[begin : begin + size]) ^ int.from_bytes(mask)).to_bytes(size)


def text_frame(text: str) -> bytes:
    """Return a whole message of the server as one frame."""
    payload = text.encode()
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 65536:
        return b"\x81\x7e%b%b" % (size.to_bytes(2), payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8), payload)
