"""The standard descriptors 0, 1 and 2: that they are open, whose they are, and that printing holds nobody up.

A descriptor that is closed when a program starts is given to whatever it opens next: a database, a socket, the protocol
of `mcpd stdio`. Whoever then prints or logs writes into that. So what is closed becomes /dev/null before anything else
is opened.

On stdio the protocol moves to private descriptors, which no child process inherits. A tool or its child that reads
finds the end of input on fd 0, and what they print on fd 1 goes to stderr (IO-1). `printing_to` makes Python's own
`print` queue its text: an `async` tool that prints to a pipe nobody reads would hold the event loop otherwise. What a
tool writes to fd 2 by other means still waits for its reader.

`say` is for those who have no log, or no time for it: it never waits for a reader of stderr.

Called by: `cli` (`ensure_open`), `app`, `signals` and `supervisor` (`say`). Calls nothing of ours. Deliberately not:
the queue of lines, which is `monitoring.logs`.

Sources: MCP basic/transports "stdio"; IO-1; trap 18; POSIX open(2), "lowest-numbered file descriptor not open".
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal

STDERR = 2
STOPPING = "mcpd: stopping, in {:g} s at most; a second signal ends it at once\n"
"""What is said at the first signal."""


def ensure_open() -> None:
    """Open /dev/null on each standard descriptor that is closed, and give `sys` the streams that it then lacks."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for fd, name in ((1, "stdout"), (STDERR, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, "w", encoding="utf-8", closefd=False))  # noqa: SIM115 - kept to the end


def claim_protocol() -> tuple[int, int]:
    """Take stdin and stdout for the protocol; return private descriptors of them, in this order.

    From here on fd 0 is /dev/null and fd 1 is stderr. Resources: the caller closes both.
    """
    ensure_open()
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(STDERR, 1)
    return source, sink


@contextlib.contextmanager
def printing_to(put: Callable[[str], object], *names: Literal["stdout", "stderr"]) -> Iterator[None]:
    """Give `put`, which must not block, what Python code prints to these streams of `sys`, line by line."""
    raw: Any = _Prints(put)  # all that a text stream needs is there, though the stubs ask for more
    prints = _Printer(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)
    before = {name: getattr(sys, name) for name in names}
    for name in names:
        setattr(sys, name, prints)
    try:
        yield
    finally:
        for name in names:
            setattr(sys, name, before[name])
        prints.flush()


class _Printer(io.TextIOWrapper):
    """A text stream that its user cannot close or take apart: it is shared by all tools."""

    def close(self) -> None:
        self.flush()

    def detach(self) -> Any:
        self.flush()
        return self.buffer


class _Prints(io.RawIOBase):
    def __init__(self, put: Callable[[str], object]) -> None:
        self._put = put

    def close(self) -> None:
        """Stay open: whoever has wrapped this in a stream of his own closes it when that is collected."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._put(bytes(data).decode("utf-8", "replace"))
        return len(data)

    def fileno(self) -> int:
        return STDERR

    def isatty(self) -> bool:
        return os.isatty(STDERR)


def say(text: str) -> None:
    """Write to stderr if it takes it at once."""
    stderr = open_stderr()
    with contextlib.suppress(OSError):
        os.write(stderr, text.encode())
    os.close(stderr)


def open_stderr() -> int:
    """Return a descriptor of what stderr is, on which writing never waits; the flag is not shared with stderr's own.

    A file is shared as it is: its place for the next line is, too, and one opened anew would be written over.
    """
    if stat.S_ISREG(os.fstat(STDERR).st_mode):
        return os.dup(STDERR)
    flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK
    try:
        return os.open("/proc/self/fd/2", flags)
    except OSError:
        return os.open(os.devnull, flags)
