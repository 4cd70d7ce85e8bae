"""Tools that a stdio server must survive: their child reads stdin, they hang, they leave threads behind."""

from __future__ import annotations

import subprocess
import threading
import time

from mcpd import tool


@tool
def eat() -> str:
    """Let a child process read its standard input to the end."""
    eaten = subprocess.run(["cat"], stdout=subprocess.PIPE, check=True).stdout
    return f"{len(eaten)} bytes eaten"


@tool
def hang() -> None:
    """Never return."""
    while True:
        time.sleep(60)


@tool
def leave_a_thread() -> str:
    """Leave a thread behind that Python waits for when it ends."""
    threading.Thread(target=time.sleep, args=(1000,), daemon=False).start()
    return "left"
