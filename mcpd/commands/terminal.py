"""How results and progress look on a terminal.

What comes out of documents and file names is not trusted: control characters, which could move the cursor or change the
terminal's settings, are shown as U+FFFD. Colours appear only on a terminal, and not with NO_COLOR in the environment.

Called by: the commands. Calls click. Deliberately not: results themselves, which go to stdout; progress and failures
go to stderr.

Laws: the progress line is rewritten at most `1 / REDRAW_S` times a second; off a terminal it is one line each
`SPEAK_S`.

Sources: no-color.org.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from contextlib import suppress
from typing import Any, Final

import click

from mcpd.errors import counted
from mcpd.ingest.reports import FileResult, Report

REDRAW_S: Final = 0.1
SPEAK_S: Final = 5.0
BAR_CHARS: Final = 24

_CONTROLS: Final = re.compile(r"[^\S\n ]|[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_UNITS: Final = ("B", "KB", "MB", "GB", "TB")


def clean(text: str) -> str:
    """Return the text with blanks for tabs and the like, and U+FFFD for control characters; line ends stay."""
    return _CONTROLS.sub(lambda found: " " if found[0].isspace() else "\ufffd", text)


def line(text: str) -> str:
    """Return the text cleaned, on one line."""
    return " ".join(clean(text).split())


def echo(text: str = "", *, err: bool = False) -> None:
    """Print, without colours where none are wanted."""
    click.echo(text, err=err, color=False if os.environ.get("NO_COLOR") else None)


def style(text: str, **how: Any) -> str:
    """Return the text in colours, which `echo` leaves out where none are wanted."""
    return click.style(text, **how)


def amount(size: float) -> str:
    """Return a number of bytes for people, such as `1.4 MB`."""
    for unit in _UNITS[:-1]:
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} {_UNITS[-1]}"


class Progress:
    """Shows the progress of an ingest on stderr.

    `total` may be told later, or never. With `following` every change is a line: that is how `--watch` goes on.
    """

    def __init__(self, *, live: bool | None = None) -> None:
        self.live = sys.stderr.isatty() if live is None else live
        self.following = False
        self.total_files: int | None = None
        self.total_bytes = 0
        self._files = 0
        self._bytes = 0
        self._shown = False
        self._last_s = time.monotonic()

    def heard(self, result: FileResult) -> None:
        """Show one file's result: failures always. Raises nothing, also when nobody reads stderr any more."""
        self._files += result.outcome != "removed"
        self._bytes += result.size
        with suppress(OSError):
            self._show(result)

    def _show(self, result: FileResult) -> None:
        if result.outcome == "failed":
            self.say(f"{style('failed', fg='red')} {line(result.path)}: {line(result.reason)}")
        elif self.following and result.outcome != "unchanged":
            self.say(f"{result.outcome} {result.uri}")
        self._refresh()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.clear()
        echo(text, err=True)

    def clear(self) -> None:
        """Take the bar away."""
        if self._shown:
            click.echo("\r\x1b[K", nl=False, err=True)
            self._shown = False

    def _refresh(self) -> None:
        now = time.monotonic()
        if self.following or now - self._last_s < (REDRAW_S if self.live else SPEAK_S):
            return
        self._last_s = now
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            click.echo("\r\x1b[K" + self.text()[:width], nl=False, err=True)
            self._shown = True
        else:
            echo(self.text(), err=True)

    def text(self) -> str:
        """Return the progress in words: files and bytes, out of how many when that is known."""
        if self.total_files is None:
            return f"{counted(self._files, 'file')}, {amount(self._bytes)}"
        share = min(1.0, self._bytes / self.total_bytes if self.total_bytes else 1.0)
        bar = "#" * round(share * BAR_CHARS)
        files = f"{self._files}/{counted(self.total_files, 'file')}"
        return f"{share:4.0%} [{bar:-<{BAR_CHARS}}] {files}, {amount(self._bytes)} of {amount(self.total_bytes)}"


def summary(report: Report, seconds: float) -> str:
    """Return a report for people, one line and what else there is to say."""
    counts = [f"{getattr(report, name)} {name}" for name in ("added", "updated", "unchanged")]
    counts += [f"{count} {name}" for name, count in (("removed", report.removed), ("failed", report.failed)) if count]
    lines = [f"{', '.join(counts)} ({amount(report.bytes)} in {seconds:.1f} s)"]
    if report.without_text:
        lines.append(f"{report.without_text} stored without text (PDF, office files): found by name, not by content")
    return "\n".join([*lines, *report.notes])
