"""What an ingest has to tell: one `FileResult` for each file as it is settled, and the `Report` in the end.

Called by: `pipeline` and `watch` make results; the command line shows them. Pure values and one counter. Deliberately
not: how it looks on a terminal.

Laws: a result of `added`, `updated` or `removed` is told after the store has acknowledged it, never before; the report
counts every failure, and keeps the first `MAX_FAILURES_ITEMS` of them.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final, Literal

import msgspec

MAX_FAILURES_ITEMS: Final = 1_000

Outcome = Literal["added", "updated", "unchanged", "removed", "failed"]


class FileResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one file. `path` is for people; `uri` is "" when a folder failed.

    `without_text`: stored, but of a format whose text cannot be read here (PDF, office files). `passing`: it failed
    because it was changing; the next attempt may succeed.
    """

    path: str
    uri: str
    outcome: Outcome
    size: int = 0
    reason: str = ""
    without_text: bool = False
    passing: bool = False


class Failure(msgspec.Struct, frozen=True):
    """A file or folder that failed, and why."""

    path: str
    reason: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What became of all files. The `without_text` ones are stored, `bytes` are those read."""

    added: int
    updated: int
    unchanged: int
    removed: int
    failed: int
    without_text: int
    bytes: int
    failures: tuple[Failure, ...]
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the report as `mcpd ingest --json` prints it."""
        return {
            "added": self.added,
            "updated": self.updated,
            "unchanged": self.unchanged,
            "removed": self.removed,
            "failed": self.failed,
            "withoutText": self.without_text,
            "bytes": self.bytes,
            "failures": [msgspec.structs.asdict(failure) for failure in self.failures],
            "notes": list(self.notes),
        }


class Tally:
    """Counts results into a report."""

    def __init__(self) -> None:
        self.files = 0
        """Files found, whatever became of them."""
        self._counts: Counter[str] = Counter()
        self._without_text = 0
        self._bytes = 0
        self._failures: list[Failure] = []
        self._notes: list[str] = []

    def add(self, result: FileResult) -> None:
        """Count one result."""
        self.files += result.uri != "" and result.outcome != "removed"
        self._counts[result.outcome] += 1
        self._bytes += result.size
        self._without_text += result.without_text
        if result.outcome == "failed" and len(self._failures) < MAX_FAILURES_ITEMS:
            self._failures.append(Failure(result.path, result.reason))

    def note(self, text: str) -> None:
        """Keep something that was left undone on purpose."""
        self._notes.append(text)

    def report(self) -> Report:
        """Return what has been counted so far."""
        counts = self._counts
        return Report(
            added=counts["added"],
            updated=counts["updated"],
            unchanged=counts["unchanged"],
            removed=counts["removed"],
            failed=counts["failed"],
            without_text=self._without_text,
            bytes=self._bytes,
            failures=tuple(self._failures),
            notes=tuple(self._notes),
        )
