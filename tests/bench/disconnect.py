"""`python -m tests.bench.disconnect`: from the client's close to the tool's `finally`.

A tool that would wait two seconds is called for a JSON reply; as soon as it reports that it runs, the client closes
its socket. The tool's `finally` reports the end. Both reports are UDP datagrams to this process, which takes the
times by one clock. Each server is left twice per round: at once, and when the call is `--after` seconds old (mcpd
begins to watch a client only after some milliseconds, since most calls are over by then). A server that lets the tool
run on is shown with the share of calls that ran to their end.
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


def leave_once(running: servers.Running, after_s: float) -> float:
    """Call, wait until the tool runs, wait `after_s`, leave; seconds until its `finally`."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as beacon:
        beacon.bind(("127.0.0.1", 0))
        beacon.settimeout(WAIT_S + 3)
        arguments = {"port": beacon.getsockname()[1], "seconds": WAIT_S}
        with closing(lanes.connect(running.port)) as client:
            client.sendall(call.http(running.port, call.body("linger", arguments), tool="linger"))
            wait_word(beacon, b"began")
            time.sleep(after_s)
            left = time.perf_counter()
        return wait_word(beacon, b"ended") - left


def leave_twice(running: servers.Running, after_s: float) -> rounds.Sample:
    """Leave at once, and leave an older call."""
    return {"at_once_s": leave_once(running, 0), "older_s": leave_once(running, after_s)}


def row(name: str, samples: list[rounds.Sample]) -> list[str]:
    """One line of the table."""
    cells, ran_on, taken = [name], 0, 0
    for key in ("at_once_s", "older_s"):
        stopped = [seconds for seconds in rounds.values(samples, key) if seconds < RAN_ON_S]
        ran_on, taken = ran_on + len(samples) - len(stopped), taken + len(samples)
        cells.append(f"{statistics.median(stopped) * 1e3:.2f}" if stopped else "runs on")
        cells.append(f"{min(stopped) * 1e3:.2f}-{max(stopped) * 1e3:.2f}" if stopped else "")
    return [*cells, f"{ran_on / taken:.0%}"]


HEADER = ["server", "left at once, ms", "range", "left later, ms", "range", "ran to its end"]


def main() -> None:
    """Measure and publish."""
    made = rounds.load_parser(__doc__ or "", "disconnect")
    made.add_argument("--after", type=float, default=0.05, help="age in seconds of a call that is left later")
    options = made.parse_args()
    with servers.open_servers(rounds.chosen(servers.LINGERING, options.only)) as running:
        by_name = {one.name: one for one in running}
        samples = rounds.alternate(
            list(by_name), options.rounds, lambda name: leave_twice(by_name[name], options.after)
        )
    text = report.table(HEADER, [row(name, taken) for name, taken in samples.items()])
    data = {"rounds": options.rounds, "samples": samples}
    report.publish(f"Client gone to `finally`, {options.rounds} rounds", text, [], data, options.json)


if __name__ == "__main__":
    main()
