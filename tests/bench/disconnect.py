"""`python -m tests.bench.disconnect`: from the client's close to the tool's `finally`.

A tool that would wait two seconds is called for a JSON reply; as soon as it reports that it runs, the client closes
its socket. The tool's `finally` reports the end. Both reports are UDP datagrams to this process, which takes the
times by one clock. A server that lets the tool run on is shown with the share of calls that ran to their end.
"""

from __future__ import annotations

import socket
import statistics
import time
from contextlib import closing

from tests.bench import call, lanes, report, rounds, servers

WAIT_S = 2.0
RAN_ON_S = WAIT_S * 0.9


def wait_word(beacon: socket.socket, word: bytes) -> float:
    """The time at which the tool sent `word`.

    Raises:
        call.WrongReply: nothing came in time, or something else.
    """
    try:
        heard = beacon.recv(64)
    except TimeoutError as error:
        raise call.WrongReply(f"the tool never said {word.decode()}") from error
    if heard != word:
        raise call.WrongReply(f"the tool said {heard!r}, not {word!r}")
    return time.perf_counter()


def leave_once(running: servers.Running) -> rounds.Sample:
    """Call, wait until the tool runs, leave, and wait for its `finally`."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as beacon:
        beacon.bind(("127.0.0.1", 0))
        beacon.settimeout(WAIT_S + 3)
        arguments = {"port": beacon.getsockname()[1], "seconds": WAIT_S}
        with closing(lanes.connect(running.port)) as client:
            client.sendall(call.http(running.port, call.body("linger", arguments), tool="linger"))
            wait_word(beacon, b"began")
            left = time.perf_counter()
        return {"seconds": wait_word(beacon, b"ended") - left}


def row(name: str, samples: list[rounds.Sample]) -> list[str]:
    """One line of the table."""
    taken = rounds.values(samples, "seconds")
    stopped = [seconds for seconds in taken if seconds < RAN_ON_S]
    times = [f"{f(stopped) * 1e3:.2f}" for f in (statistics.median, min, max)] if stopped else ["runs on", "", ""]
    return [name, *times, f"{1 - len(stopped) / len(taken):.0%}"]


HEADER = ["server", "median ms", "least", "most", "ran to its end"]


def main() -> None:
    """Measure and publish."""
    options = rounds.parser(__doc__ or "", "disconnect").parse_args()
    with servers.open_servers(rounds.chosen(servers.LINGERING, options.only)) as running:
        by_name = {one.name: one for one in running}
        samples = rounds.alternate(list(by_name), options.rounds, lambda name: leave_once(by_name[name]))
    text = report.table(HEADER, [row(name, taken) for name, taken in samples.items()])
    data = {"rounds": options.rounds, "samples": samples}
    report.publish(f"Client gone to `finally`, {options.rounds} times each", text, [], data, options.json)


if __name__ == "__main__":
    main()
