"""What signals mean to a server or a command: the first asks it to stop in order, the second ends it at once.

An orderly stop has bounds everywhere; should one of them fail (a tool that holds the event loop, a peer that does not
read), a watchdog ends the process. Neither it nor the second signal needs the event loop or the GIL, since those may be
what hangs: the first signal restores the system's default action, and the watchdog is faulthandler's thread, which runs
no Python. On Linux the kernel itself restores the default (SA_RESETHAND), so that a first signal which no Python code
could handle yet, because a C call holds the GIL, still lets the second end the process.

Called by: `app` for servers; `commands` for what ends by itself. Deliberately not: the order of stopping,
which is `app`'s.

Laws: after the first signal the process ends within `patience_s`, whatever its tools and peers do; nothing here waits
for stderr, which may be a pipe that nobody reads.

Process 1 of a container has no default actions: there the second signal is handled in Python, and needs the GIL.

Sources: issue "A second Ctrl-C exits at once"; architecture "Nurseries and shutdown", trap 5; sigaction(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import platform
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType
from typing import TypeVar

import trio

from mcpd.descriptors import STOPPING, open_stderr, say

T = TypeVar("T")

INTERRUPTED = 130
_STOP: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM)
_HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)
_SA_RESETHAND = 0x80000000
_KNOWN_LAYOUT = sys.platform == "linux" and platform.machine() in {"x86_64", "aarch64"}


async def handle_signals(
    stopping: trio.Event, reload: Callable[[], None] | None, *, patience_s: float, quiet: bool = False
) -> None:
    """Set `stopping` at the first SIGINT or SIGTERM, end the process at the second; `reload` at each SIGHUP.

    Without `reload`, SIGHUP asks to stop, too. `quiet` when somebody else says that it stops.
    Cancellation: safe; the old handlers come back. After the first signal nobody but the end of the process follows.
    """
    token = trio.lowlevel.current_trio_token()

    def stop() -> None:
        start_watchdog(patience_s)
        if not quiet:
            say(STOPPING.format(patience_s))
        _soon(token, stopping.set)

    hangup = () if _HANGUP is None else (_HANGUP,)
    if reload is None:
        with _asking_once((*_STOP, *hangup), stop):
            await trio.sleep_forever()
    else:
        # In this order: Trio sets SIGINT's handler anew to learn whether it is in the main thread, without our flag.
        with (
            _ignored_at_the_end(hangup, stopping),
            trio.open_signal_receiver(*hangup) as arriving,
            _asking_once(_STOP, stop),
        ):
            async for _ in arriving:
                reload()


@contextlib.contextmanager
def _ignored_at_the_end(numbers: tuple[signal.Signals, ...], stopping: trio.Event) -> Iterator[None]:
    """Let what is received inside be ignored afterwards if the process is about to end: its default would kill it."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        if not stopping.is_set():
            for number in numbers:
                signal.signal(number, before[number])


class Interrupted(Exception):
    """A command's work was ended by a signal."""


def run_until_interrupted(work: Callable[[], Awaitable[T]]) -> T:
    """Run a command's work in Trio and return its result; the first signal cancels it, the second ends the process.

    Raises: Interrupted; what the work raises, as it is.
    """
    results = trio.run(_until_interrupted, work)
    if not results:
        raise Interrupted
    return results[0]


async def _until_interrupted(work: Callable[[], Awaitable[T]]) -> list[T]:
    results: list[T] = []
    token = trio.lowlevel.current_trio_token()
    with trio.CancelScope() as working, _asking_once(_STOP, lambda: _soon(token, working.cancel)):
        results.append(await work())
    return results


def start_watchdog(patience_s: float) -> None:
    """End the process with exit code 1 in `patience_s`, and show what its threads were doing, unless it ends before.

    May be called from a signal handler. Needs neither the event loop, nor the GIL, nor a reader of stderr.
    """
    faulthandler.dump_traceback_later(patience_s, exit=True, file=open_stderr())


@contextlib.contextmanager
def _asking_once(numbers: tuple[signal.Signals, ...], ask: Callable[[], None]) -> Iterator[None]:
    """Call `ask`, in the handler, at the first of these signals, and let the next one end the process."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, _end_now if _is_init() else signal.SIG_DFL)
        ask()

    before = {number: signal.signal(number, handle) for number in numbers}
    for number in numbers:
        _reset_when_it_comes(number)
    try:
        yield
    finally:
        for number in numbers:
            if signal.getsignal(number) is handle:
                signal.signal(number, before[number])


def _is_init() -> bool:
    return os.getpid() == 1


def _end_now(_number: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def _soon(token: trio.lowlevel.TrioToken, do: Callable[[], object]) -> None:
    with contextlib.suppress(trio.RunFinishedError):
        token.run_sync_soon(do)


class _SigAction(ctypes.Structure):
    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_byte * 128),
        ("flags", ctypes.c_uint),
        ("restorer", ctypes.c_void_p),
    )


def _reset_when_it_comes(number: signal.Signals) -> None:
    """Let the kernel restore the default action when it delivers this signal, not only Python when it handles it."""
    if not _KNOWN_LAYOUT or _is_init():
        return
    libc, action = ctypes.CDLL(None), _SigAction()
    if libc.sigaction(int(number), None, ctypes.byref(action)) == 0:
        action.flags |= _SA_RESETHAND
        libc.sigaction(int(number), ctypes.byref(action), None)
