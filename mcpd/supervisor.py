"""`mcpd serve --workers N`: one process that binds the sockets, and N that serve on them.

It starts them, one first, so that what is wrong for all is said once; then the others. It starts a dead one anew, later
and later while they die before they serve; passes SIGTERM on, and SIGHUP to one after the other; adds up their metrics.
All share one listening socket each: a worker that has died takes no connection with it that nobody has accepted, and
whoever is idle accepts next. (With SO_REUSEPORT the kernel deals connections out by a hash: a busy or dead worker gets
its part all the same, which then waits for it.)

Called by: `commands.serve`. Deliberately not a server: no thread, no event loop, no tool is loaded here, so that
starting a process is safe at any time; and not a balancer between machines.

Laws: nothing here waits without a bound, for a worker, stdout's reader aside; workers end with the supervisor, however
it ends (`supervision.link`); no count of the metrics ever goes back, though a killed worker takes along what it has
counted since its last report, `REPORT_S` at most.
"""

from __future__ import annotations

import math
import os
import selectors
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Final

from mcpd.config import Config
from mcpd.descriptors import STOPPING, say
from mcpd.gateway.server.sockets import open_metrics_sockets, open_sockets
from mcpd.monitoring.merging import Family, count, lasting, merge
from mcpd.supervision.child import Child
from mcpd.supervision.messages import Merged, Message, Ready, Reloaded, Report, Scrape, Setup
from mcpd.supervision.parts import part_of

REPORT_S: Final = 2.0
"""How often workers are asked for their metrics besides scrapes."""
SCRAPE_S: Final = 0.3
"""How long a scrape waits for a worker that is busy; then its last report stands for it."""
RELOAD_S: Final = 5.0
"""How long the next worker's SIGHUP waits for a worker that does not say that it has reloaded."""
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 30.0
MAX_DOUBLINGS: Final = 10
MAX_EARLY_DEATHS_ITEMS: Final = 5
"""Workers that die one after the other before they serve: at the start, or when no other serves, all is given up."""
MARGIN_S: Final = 1.0
"""What workers may need besides their own bound of stopping before they are killed."""
STEADY_S: Final = 30.0
"""Who has lived so long is started anew without more delay than the first time."""
FAILED, INTERRUPTED = 1, 130
_STDOUT: Final = 1
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)


def supervise(config: Config) -> int:
    """Serve with `config.server.workers` processes until a signal; returns the exit code.

    Raises: ConfigurationError.
    """
    with ExitStack() as closing:
        sockets = open_sockets(config.server, config.timeouts)
        metrics_sockets = open_metrics_sockets(config.server, config.timeouts)
        for sock in (*sockets, *metrics_sockets):
            closing.callback(sock.close)
        lifeline, held = os.pipe()
        closing.callback(os.close, lifeline)
        closing.callback(os.close, held)
        setup = Setup(0, part_of(config), _numbers(sockets), _numbers(metrics_sockets), lifeline)
        with _arriving_signals() as signals:
            return Supervisor(setup, signals).run()


def _numbers(sockets: Sequence[socket.socket]) -> tuple[int, ...]:
    return tuple(sock.fileno() for sock in sockets)


@contextmanager
def _arriving_signals() -> Iterator[socket.socket]:
    """Give a socket on which each signal that arrives is one byte, its number."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        before = {number: signal.signal(number, _note) for number in _SIGNALS}
        wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            yield ours
        finally:
            signal.set_wakeup_fd(wakeup)
            for number in (signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, before[number] if number == signal.SIGCHLD else signal.SIG_IGN)


def _note(_number: int, _frame: object) -> None:
    """Have a handler, so that the signal does not end the process: its number comes through the socket."""


class Supervisor:
    """The workers of one server. `setup` is what each is told, but for its number."""

    def __init__(self, setup: Setup, signals: socket.socket) -> None:
        self._setup = setup
        self._workers = setup.config.server.workers
        self._timeouts = setup.config.timeouts
        self._signals = signals
        self._selector = selectors.DefaultSelector()
        self._selector.register(signals, selectors.EVENT_READ, self._on_signals)
        self._children: dict[int, Child] = {}
        self._due_s: dict[int, float] = {1: 0.0}
        """When a worker is to be started, by its number."""
        self._early_deaths = 0
        """Since one last served."""
        self._quick_deaths: dict[int, int] = {}
        self._announced = False
        self._exit_code: int | None = None
        """Set when all is to end."""
        self._kill_s = math.inf
        self._reloading: tuple[Child, float] | None = None
        self._ask_s = 0.0
        self._scrapes: list[_Scrape] = []
        self._past: list[Family] = []
        """What workers that have ended had counted."""
        self._restarts = 0

    def run(self) -> int:
        """Start the workers and see to them until all have ended for good; returns the exit code."""
        try:
            while self._exit_code is None or self._children:
                self._start_due()
                for key, events in self._selector.select(self._pause_s()):
                    key.data(events)
                self._reap()
                self._reload_next()
                self._finish_scrapes()
                self._ask_all()
                self._kill_late()
        finally:
            self._selector.close()
            for child in self._children.values():
                child.signal(signal.SIGKILL)
        return self._exit_code

    def _pause_s(self) -> float | None:
        moments = [*self._due_s.values(), *(scrape.until_s for scrape in self._scrapes), self._kill_s]
        if any(child.ready for child in self._children.values()):
            moments.append(self._ask_s)
        if self._reloading is not None:
            moments.append(self._reloading[1])
        first = min(moments)
        return None if first == math.inf else max(0.0, first - time.monotonic())

    def _start_due(self) -> None:
        now = time.monotonic()
        for number in [number for number, due_s in self._due_s.items() if due_s <= now]:
            del self._due_s[number]
            try:
                child = Child(self._setup._replace(number=number))
            except OSError as error:
                self._died(number, f"cannot be started: {error.strerror}", code=0)
                continue
            self._children[number] = child
            self._selector.register(child.channel, selectors.EVENT_READ, partial(self._on_channel, child))

    def _on_channel(self, child: Child, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            child.flush()
        if events & selectors.EVENT_READ:
            messages = child.receive()
            if messages is None:
                self._selector.unregister(child.channel)
                return
            for message in messages:
                self._take(child, message)
        self._watch(child)

    def _watch(self, child: Child) -> None:
        """Wait for room in the channel while something is left to say."""
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if child.outgoing else 0)
        key = self._selector.get_map().get(child.channel)
        if key is not None and key.events != wanted:
            self._selector.modify(child.channel, wanted, key.data)

    def _take(self, child: Child, message: Message) -> None:
        if isinstance(message, Ready):
            self._on_ready(child, message)
        elif isinstance(message, Reloaded):
            if self._reloading is not None and self._reloading[0] is child:
                self._reloading = None
        elif isinstance(message, Report):
            child.take(message.families)
        elif isinstance(message, Scrape):
            self._scrape(child, message.number)

    def _on_ready(self, child: Child, message: Ready) -> None:
        child.ready = True
        self._early_deaths = 0
        if self._exit_code is not None:
            return
        if len(self._children) + len(self._due_s) < self._workers:
            for number in range(1, self._workers + 1):
                if number not in self._children:
                    self._due_s.setdefault(number, 0.0)
        if not self._announced and self._count_ready() == self._workers:
            self._announced = True
            _announce(message.banner)

    def _count_ready(self) -> int:
        return sum(child.ready for child in self._children.values())

    def _reap(self) -> None:
        for child in [child for child in self._children.values() if child.process.poll() is not None]:
            del self._children[child.number]
            self._forget(child)
            if self._exit_code is None:
                self._replace(child)
            elif child.ready and child.process.returncode != 0:
                self._exit_code = self._exit_code or FAILED

    def _forget(self, child: Child) -> None:
        """Let go of a worker that has ended, after its last words."""
        for message in child.receive() or ():
            if isinstance(message, Report):
                child.take(message.families)
        if child.channel in self._selector.get_map():
            self._selector.unregister(child.channel)
        child.close()
        self._past = merge([self._past, lasting(child.report)])
        if self._reloading is not None and self._reloading[0] is child:
            self._reloading = None

    def _replace(self, child: Child) -> None:
        code = child.process.returncode
        if child.ready and time.monotonic() - child.started_s > STEADY_S:
            self._quick_deaths.pop(child.number, None)
        what = f"ended with exit code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"
        self._died(child.number, f"(pid {child.pid}) {what}", served=child.ready, code=code)

    def _died(self, number: int, what: str, *, served: bool = False, code: int) -> None:
        """Start another one later, or give up."""
        self._early_deaths += not served
        if not served and self._gives_up():
            if code <= 0:  # else it has said itself what is wrong
                say(f"mcpd: worker {number} {what}, and no other serves\n")
            self._stop(code if code > 0 else FAILED)
            return
        deaths = self._quick_deaths[number] = self._quick_deaths.get(number, 0) + 1
        pause_s = pause_after(deaths)
        self._restarts += 1
        self._due_s[number] = time.monotonic() + pause_s
        say(f"mcpd: worker {number} {what}; another starts in {pause_s:g} s\n")

    def _gives_up(self) -> bool:
        serving, hopeless = self._count_ready(), self._early_deaths >= MAX_EARLY_DEATHS_ITEMS
        return hopeless and not serving if self._announced else hopeless or not serving

    def _on_signals(self, _events: int) -> None:
        for number in self._signals.recv(4096):
            if number == signal.SIGHUP:
                for child in self._children.values():
                    child.reload_wanted = True
            elif number in (signal.SIGINT, signal.SIGTERM):
                self._on_stop()

    def _on_stop(self) -> None:
        if self._exit_code is None:
            say(STOPPING.format(self._timeouts.stop_s))
            self._stop(0)
        else:
            self._exit_code = INTERRUPTED
            self._signal_all(signal.SIGKILL)

    def _stop(self, code: int) -> None:
        """Let the workers end, and then the supervisor with `code`."""
        self._exit_code = code
        self._due_s.clear()
        self._kill_s = time.monotonic() + self._timeouts.stop_s + MARGIN_S
        self._signal_all(signal.SIGTERM)

    def _kill_late(self) -> None:
        if time.monotonic() >= self._kill_s:
            self._kill_s = math.inf
            self._signal_all(signal.SIGKILL)

    def _signal_all(self, number: signal.Signals) -> None:
        for child in self._children.values():
            child.signal(number)

    def _reload_next(self) -> None:
        """Send the next SIGHUP once the worker before has obeyed it; one that is starting gets it when it serves."""
        if self._reloading is not None and time.monotonic() < self._reloading[1]:
            return
        self._reloading = None
        for child in self._children.values():
            if child.reload_wanted and child.ready:
                child.reload_wanted = False
                self._reloading = child, time.monotonic() + RELOAD_S
                child.signal(signal.SIGHUP)
                return

    def _scrape(self, child: Child, number: int) -> None:
        awaited = {other: other.ask() for other in self._children.values() if other.ready}
        self._scrapes.append(_Scrape(child, number, awaited))
        for other in awaited:
            self._watch(other)

    def _finish_scrapes(self) -> None:
        now = time.monotonic()
        for scrape in [scrape for scrape in self._scrapes if scrape.is_over(now)]:
            self._scrapes.remove(scrape)
            if scrape.asker in self._children.values():
                scrape.asker.say(Merged(scrape.number, tuple(self._merged())))
                self._watch(scrape.asker)

    def _merged(self) -> list[Family]:
        restarts = [count("mcpd_worker_restarts", self._restarts)]
        return merge([*(child.report for child in self._children.values()), self._past, restarts])

    def _ask_all(self) -> None:
        if time.monotonic() < self._ask_s:
            return
        self._ask_s = time.monotonic() + REPORT_S
        for child in self._children.values():
            if child.reports == child.asks:
                child.ask()
                self._watch(child)


def pause_after(deaths: int) -> float:
    """Return how many seconds after so many quick deaths in a row, the last included, another worker is started."""
    return min(FIRST_PAUSE_S * 2.0 ** min(deaths - 1, MAX_DOUBLINGS), LONGEST_PAUSE_S)


class _Scrape:
    """One scrape of a worker, and whose reports it waits for."""

    def __init__(self, asker: Child, number: int, awaited: Mapping[Child, int]) -> None:
        self.asker = asker
        self.number = number
        self.until_s = time.monotonic() + SCRAPE_S
        self._awaited = awaited

    def is_over(self, now: float) -> bool:
        return now >= self.until_s or all(
            child.reports >= asked or child.process.returncode is not None for child, asked in self._awaited.items()
        )


def _announce(banner: Sequence[str]) -> None:
    try:
        os.write(_STDOUT, "\n".join([*banner, ""]).encode("utf-8", "backslashreplace"))
    except OSError as error:
        say(f"mcpd: stdout cannot be written to, the server goes on: {error.strerror}\n")
