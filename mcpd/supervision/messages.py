"""What a supervisor and its workers say to each other, as values and as bytes.

A frame is four bytes of length, big-endian, and that many bytes of MessagePack: one tagged array. A worker says `Ready`
once, `Reloaded` after each SIGHUP, `Report` when it is asked (`Ask`), and `Scrape` when it is scraped itself, which
`Merged` answers. What a worker has to know is its first frame, a pickled `Setup`: both ends are one program, started
by the same user, on a socket that nobody else has.

Called by: `supervision.link` (worker), `supervision.child` and `supervisor`. Pure. Deliberately not: a reader of
sockets; `Frames` is fed bytes.

Laws: 3, 8: a frame has at most `MAX_FRAME_BYTES`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from mcpd.config import Config
from mcpd.monitoring.merging import Family

HEADER_BYTES: Final = 4
MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
"""Metrics have at most some 60,000 samples, of 100 bytes each."""


class Setup(NamedTuple):
    """All that a worker is told; the numbers of descriptors are those that it inherits."""

    number: int
    config: Config
    """With limits that are this worker's part of the whole."""
    sockets: tuple[int, ...]
    metrics_sockets: tuple[int, ...]
    lifeline: int
    """A pipe that ends with the supervisor."""


class Ready(msgspec.Struct, tag="ready", array_like=True, frozen=True):
    """The worker serves; `banner` says where and what."""

    banner: tuple[str, ...]


class Reloaded(msgspec.Struct, tag="reloaded", array_like=True, frozen=True):
    """The worker has read its keys again."""


class Ask(msgspec.Struct, tag="ask", array_like=True, frozen=True):
    """Report your metrics."""


class Report(msgspec.Struct, tag="report", array_like=True, frozen=True):
    """The metrics of one worker as they are."""

    families: tuple[Family, ...]


class Scrape(msgspec.Struct, tag="scrape", array_like=True, frozen=True):
    """Give me the metrics of all workers."""

    number: int


class Merged(msgspec.Struct, tag="merged", array_like=True, frozen=True):
    """The metrics of all workers, for the scrape of this number."""

    number: int
    families: tuple[Family, ...]


Message = Ready | Reloaded | Ask | Report | Scrape | Merged
_decoder = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """Return a message as one frame."""
    return frame(msgspec.msgpack.encode(message))


def frame(body: bytes) -> bytes:
    """Return bytes as one frame."""
    return len(body).to_bytes(HEADER_BYTES, "big") + body


class Frames:
    """Takes bytes as they come and gives whole frames."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that are whole now. Raises: ValueError when the other end does not speak this."""
        self._bytes += data
        messages = []
        while (body := self._next()) is not None:
            messages.append(_decoder.decode(body))
        return messages

    def _next(self) -> bytes | None:
        length = int.from_bytes(self._bytes[:HEADER_BYTES], "big")
        if length > MAX_FRAME_BYTES:
            raise ValueError(f"a frame of {length} bytes")
        end = HEADER_BYTES + length
        if len(self._bytes) < max(end, HEADER_BYTES):
            return None
        body = bytes(self._bytes[HEADER_BYTES:end])
        del self._bytes[:end]
        return body
