"""A tool that waits and reports when it began and when its `finally` ran, for the disconnect benchmark.

Loaded by: `python -m mcpd serve --tools tests/bench/linger.py` (see `servers`). A mark is one UDP datagram to the
loopback interface, as in `peers/beacon.py`, which the peers' tools use: the receiver takes the time, so that all are
timed alike.
"""

import socket

import trio

from mcpd import tool


@tool
async def linger(port: int, seconds: float) -> str:
    """Wait, and tell the benchmark when that began and ended."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as beacon:
        beacon.sendto(b"began", ("127.0.0.1", port))
        try:
            await trio.sleep(seconds)
        finally:
            beacon.sendto(b"ended", ("127.0.0.1", port))
    return "done"
