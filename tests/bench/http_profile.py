"""`python -m tests.bench.http_profile`: where mcpd's processor time goes under HTTP or WebSocket load.

Runs `mcpd serve` in this process, sampled, while the load generator works on it from another one; then ends the server
as Ctrl-C does, and prints microseconds per call by function and by file, Hypercorn's and Trio's included. A tool for
whoever wants to make it faster; it compares nothing and has no target.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
import time

from mcpd import app, settings
from tests.bench import call, machine, rounds, servers
from tests.bench.sampling import Profile

START_S = 10.0


def wait_up(transport: servers.Server, port: int) -> None:
    """Knock until the server in this process answers.

    Raises:
        ConnectionRefusedError: it did not within `START_S`.
    """
    limit = time.monotonic() + START_S
    while True:
        try:
            return servers.knock(transport, port)
        except ConnectionRefusedError:
            if time.monotonic() > limit:
                raise
            time.sleep(0.01)


def load(options: argparse.Namespace, port: int, profile: Profile, samples: list[rounds.Sample]) -> None:
    """Put the load on the server in this process, sampled, and end it."""
    transport = servers.MCPD_WEBSOCKET if options.websocket else servers.MCPD
    try:
        wait_up(transport, port)
        with profile.counting():
            samples.append(rounds.generate(servers.Running(transport, os.getpid(), port), options, options.in_flight))
    except (call.WrongReply, ConnectionRefusedError) as error:
        print(error, file=sys.stderr)
    finally:
        os.kill(os.getpid(), signal.SIGINT)


def main() -> None:
    """Serve, load, print."""
    made = rounds.load_parser(__doc__ or "", "http_profile")
    made.add_argument("--websocket", action="store_true")
    made.add_argument("--in-flight", type=int, default=1, help="calls in flight per WebSocket")
    made.add_argument("--callers", metavar="WORD", help="also: who calls the functions whose name contains WORD")
    options = made.parse_args()
    port, profile, samples = servers.free_port(), Profile(), list[rounds.Sample]()
    thread = threading.Thread(target=load, args=(options, port, profile, samples), daemon=True)
    with tempfile.TemporaryDirectory(prefix="mcpd-bench-") as folder, machine.on_core(servers.SERVER_CORE):
        flags = {"server.port": port, "data.folder": f"{folder}/data", "server.log_level": "warning"}
        tools = (str(servers.ROOT / "tests/bench/echo.py"),)
        with profile.sampling():
            thread.start()
            app.serve(settings.load(None, {}, {**flags, "tools.modules": tools}))
    thread.join()
    if samples:
        print(f"{samples[0]['rate']:,.0f} calls/s, {samples[0]['server_us']:,.0f} us of processor time each\n")
        print("\n\n".join(profile.tables(samples[0]["server_us"], 45)))
    if options.callers:
        print("\n" + "\n".join(f"{n:5}  {path}" for path, n in profile.callers(options.callers).most_common(12)))


if __name__ == "__main__":
    main()
