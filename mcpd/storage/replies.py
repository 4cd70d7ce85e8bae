"""What is left of finished replies whose clients have lost them, kept beside the sessions: the contract.

A stream of a session belongs to the process where its call runs. When it has ended and nobody was there to read its
end, the rest of it is kept here, so that it outlives its process; and whoever finds that the process of a stream is
gone keeps the last word on it here. The first word on a stream stands: of two who write, the second is told what the
first has written, so that a request has one answer.

Called by: `messages.kept_replies`. Implemented by: the session stores of the backends, each in a file of its own.
Values and Protocols; nothing here runs. Deliberately not: what the bytes say.

Laws: 5 (looking and writing are one step), 8. What is kept of a session ends with it, and after its time in any case.

Sources: RSM-5, STR-3, SES-4.
"""

from __future__ import annotations

from typing import Final, Protocol

MAX_REPLY_BYTES: Final = 4 << 20
"""Of one stream; a longer rest is not kept."""

MAX_SESSION_BYTES: Final = 8 << 20
"""Of all streams of one session; the oldest give way. As much as one process holds of a session for nobody."""

MAX_SESSION_REPLIES: Final = 256
"""Of one session; the oldest give way. A client that names streams of a process that is gone has a few words kept of
each, and whoever keeps one looks at all. Eight processes have no more at `limits.max_streams_per_session`."""


class Replies(Protocol):
    """The rests of streams, by session and name of the stream."""

    async def keep(self, session: str, stream: str, data: bytes, ttl_s: float) -> bytes | None:
        """Keep `data` for `ttl_s` unless something is kept of this stream; return what is kept then.

        None when nothing is: the session has ended, or `data` is longer than `MAX_REPLY_BYTES`. Raises: StorageError.
        Cancellation: it may be kept.
        """

    async def get(self, session: str, stream: str) -> bytes | None:
        """Return what is kept of a stream. Raises: StorageError."""
