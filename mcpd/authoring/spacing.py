"""Which reports of a call's progress are sent: those that rise and do not follow each other too closely.

Called by: `authoring.context` and `tools.worker`, one object for each call. Reads the monotonic clock. Deliberately
not: the notification, and whether the client wants any.

Law: the first report and the last (`done` has reached `total`) are always sent, and what is sent rises (PRG-1).
"""

from __future__ import annotations

import time
from typing import Final

PROGRESS_SPACING_S: Final = 0.025
"""At least this long between two reports: more than a person can read, little to send."""


class Spacing:
    """What one call has reported so far."""

    __slots__ = ("_last", "_last_sent")

    def __init__(self) -> None:
        self._last: float | None = None
        self._last_sent = 0.0

    def admits(self, done: float, total: float | None) -> bool:
        """Say whether this report is to be sent, which counts as sent then."""
        now = time.monotonic()
        if self._last is not None:
            near = now - self._last_sent < PROGRESS_SPACING_S
            if done <= self._last or (near and (total is None or done < total)):
                return False
        self._last, self._last_sent = done, now
        return True
