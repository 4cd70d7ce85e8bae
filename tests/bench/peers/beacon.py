"""How a Python peer's lingering tool tells the disconnect benchmark when it began and when it ended.

Called by: `python_sdk.py`, `fastmcp_framework.py`. A mark is one UDP datagram to a port of the loopback interface,
`began` or `ended`; the receiver takes the time, so that servers in three languages are timed by one clock.
"""

from __future__ import annotations

import socket


def mark(port: int, word: str) -> None:
    """Send `word` to 127.0.0.1:`port`. Never blocks for longer than a system call."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(word.encode(), ("127.0.0.1", port))
