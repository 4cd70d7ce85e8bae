"""The load generator: a process that keeps a number of calls in flight on one server and counts right replies.

Run by: `rounds`, as `python -m tests.bench.generator PORT --transport http ...`; prints one JSON object. One thread,
one epoll, raw sockets: no event loop, no HTTP library on the hot path. It also reads the server's processor time at the
beginning and at the end of the counted window, so that both cover the same calls.

Law: the generator must not be the bottleneck. It reports its own processor time per call (`generator_us`), of which
the inverse is its ceiling, and `busy`, the share of the window that it computed; `report` marks a row whose generator
was busier than 0.8.
"""

from __future__ import annotations

import argparse
import gc
import json
import select
import statistics
import time
from dataclasses import dataclass, field

from tests.bench import call, machine
from tests.bench.lanes import TIMEOUT_S, HttpLane, Lane, WebSocketLane


@dataclass
class Tally:
    """What a window counted."""

    calls: int = 0
    latencies_s: list[float] = field(default_factory=list)


class Load:
    """A set of lanes and the loop that keeps them full."""

    def __init__(self, lanes: list[Lane]) -> None:
        self._lanes = {lane.socket.fileno(): lane for lane in lanes}
        self._sent_at = {fd: [0.0] * lane.slots for fd, lane in self._lanes.items()}
        self._poll = select.epoll()
        for fd in self._lanes:
            self._poll.register(fd, select.EPOLLIN)

    def start(self) -> None:
        """Put every slot in flight."""
        for fd, lane in self._lanes.items():
            self._send(fd, lane, list(range(lane.slots)))

    def run(self, seconds: float) -> tuple[Tally, float]:
        """Refill answered slots for `seconds`; what was answered, and how long it really took."""
        tally, begin = Tally(), time.perf_counter()
        end = begin + seconds
        while (now := time.perf_counter()) < end:
            ready = self._poll.poll(TIMEOUT_S)
            if not ready:
                raise call.WrongReply(f"no reply within {TIMEOUT_S} s")
            for fd, _ in ready:
                self._serve(fd, tally)
        return tally, now - begin

    def _serve(self, fd: int, tally: Tally) -> None:
        lane = self._lanes[fd]
        slots = lane.receive()
        if slots:
            now, sent_at = time.perf_counter(), self._sent_at[fd]
            tally.calls += len(slots)
            tally.latencies_s += [now - sent_at[slot] for slot in slots]
            self._send(fd, lane, slots)

    def _send(self, fd: int, lane: Lane, slots: list[int]) -> None:
        now, sent_at = time.perf_counter(), self._sent_at[fd]
        for slot in slots:
            sent_at[slot] = now
        lane.send(slots)


def open_lanes(options: argparse.Namespace) -> list[Lane]:
    """The connections, each of which has already been answered correctly."""
    if options.transport == "http":
        return [HttpLane(options.port, options.path) for _ in range(options.connections)]
    return [
        WebSocketLane(options.port, options.path, options.in_flight, mirrored=options.mirrored)
        for _ in range(options.connections)
    ]


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Warm up, count, report."""
    load = Load(open_lanes(options))
    gc.freeze()
    load.start()
    load.run(options.warmup)
    server_before, own_before = machine.processor_s(options.pid), time.process_time()
    tally, elapsed = load.run(options.seconds)
    server, own = machine.processor_s(options.pid) - server_before, time.process_time() - own_before
    percentiles = statistics.quantiles(tally.latencies_s, n=100)
    return {
        "calls": tally.calls,
        "seconds": elapsed,
        "rate": tally.calls / elapsed,
        "server_us": server / tally.calls * 1e6,
        "generator_us": own / tally.calls * 1e6,
        "busy": own / elapsed,
        "p50_ms": percentiles[49] * 1e3,
        "p99_ms": percentiles[98] * 1e3,
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description="Load generator of the benchmarks.")
    parser.add_argument("port", type=int)
    parser.add_argument("--transport", choices=["http", "websocket"], default="http")
    parser.add_argument("--path", default="/mcp")
    parser.add_argument("--pid", type=int, required=True, help="the server's process, for its processor time")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--in-flight", type=int, default=1, help="calls in flight per WebSocket")
    parser.add_argument("--mirrored", action="store_true", help="the server is a bare WebSocket echo")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--warmup", type=float, default=0.3)
    print(json.dumps(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
