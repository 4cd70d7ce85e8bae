"""The answers of one batch (2025-03-26), which are kept until the last and sent together, so they are bounded together.

Called by: `messages.duplex`, `gateway.stateful_http`. Deliberately not: which messages may be in a batch
(`wire.session`), or the bound of a single answer, which the manager keeps.

Laws: whatever a client makes grow has a number (law 8): an answer that does not fit any more is an error with its id.

Sources: BAT-1, BAT-4, SEC-4.
"""

from __future__ import annotations

from mcpd.errors import ResultTooLarge
from mcpd.wire import jsonrpc
from mcpd.wire.call import RequestId


class BatchBound:
    """How long the answers are together. Nothing here is a checkpoint."""

    def __init__(self, most: int) -> None:
        """`most` is `limits.max_result_bytes`, which the first answer has met already."""
        self._most = most
        self._size = 0

    def fitted(self, answer: bytes, request_id: RequestId | None) -> bytes:
        """Return this answer, or the error that stands for it when it is too much."""
        size = self._size + len(answer)
        if self._size and size > self._most:
            answer = jsonrpc.failure_of(ResultTooLarge(size, self._most), request_id, stateless=False)
        self._size += len(answer)
        return answer
