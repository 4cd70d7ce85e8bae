"""What two processes say to each other about a stream that is read on one of them and written on the other.

The reader asks (`Pull`), the owner answers (`Batch`): what there is behind the reader's place, as soon as there is
anything, or after `PAUSE_S` that there is nothing; then the reader asks again. An event that is too long for a batch
comes in pieces. Each answer stands for itself, so that lost, late and repeated ones do no harm.

Called by: `messages.lending` (the owner), `messages.remote_streams` (the reader). Values and pure steps.
Deliberately not: when to ask or to answer.

Laws: a batch is bounded (`MAX_BATCH_BYTES`), whatever the stream holds (law 8).

Sources: RSM-1, RSM-2, RSM-4.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from mcpd.messages.streams import EventStream

PULL: Final = "pull"
PULLED: Final = "pulled"
"""The topics."""

MAX_BATCH_BYTES: Final = 256 << 10
"""Of messages in one batch. A reader holds one batch, or the event that it is collecting."""

PAUSE_S: Final = 2.0
"""How long an owner with nothing to say waits: as late a reader may learn that the owner's address is nobody's."""


class Pull(msgspec.Struct, frozen=True, array_like=True):
    """The reader `token` wants what is behind event `after`."""

    session: str
    stream: str
    token: str
    after: int
    kind: Literal["first", "more", "busy", "done", "left"]
    """`busy`: it is still there and wants nothing yet; `done`: its client has got the end; `left`: it has not."""
    piece_of: int = 0
    """Number of the event of which it has the first `offset` bytes."""
    offset: int = 0


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """An event, or a part of its bytes from `offset` on; it is `size` bytes long."""

    number: int
    size: int
    offset: int
    data: bytes


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """What an owner answers the reader `token`."""

    token: str
    state: Literal["ok", "unknown", "dropped", "replaced"]
    """`unknown`: there is no such stream; `dropped`: there is, and events behind that place are no longer kept."""
    pieces: list[Piece] = []
    ended_at: int | None = None
    """Number of the last event of a stream that is finished."""
    retry_ms: int | None = None
    """Set when the connection is to be closed while the call goes on (RSM-4)."""


read_pull: Final = msgspec.msgpack.Decoder(Pull).decode
read_batch: Final = msgspec.msgpack.Decoder(Batch).decode
encode: Final = msgspec.msgpack.encode


def gather(stream: EventStream, pull: Pull) -> Batch:
    """Return what a stream has for a reader."""
    pieces: list[Piece] = []
    room, last = MAX_BATCH_BYTES, pull.after
    for number, data in stream.since(pull.after):
        offset = pull.offset if number == pull.piece_of else 0
        piece = Piece(number, len(data), offset, data[offset : offset + room])
        pieces.append(piece)
        room -= len(piece.data)
        if offset + len(piece.data) < len(data) or room <= 0:
            return Batch(pull.token, "ok", pieces)
        last = number
    return Batch(pull.token, "ok", pieces, last if stream.finished else None, stream.retry_ms)
