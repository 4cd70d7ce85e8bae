"""Tools that a stdio server must survive: they hang, close streams, leave threads, and a child of one reads stdin."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from typing import cast

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


@tool
def close_stdout() -> None:
    """Close what is everybody's."""
    sys.stdout.close()


@tool
def wrap_stdout() -> None:
    """Print through a stream of its own, which closes what lies below when it is collected."""
    io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8").write("wrapped\n")


@tool
def detach_stdout() -> None:
    """Do what scripts of old do to print UTF-8."""
    io.TextIOWrapper(cast(io.TextIOWrapper, sys.stdout).detach(), encoding="utf-8").write("detached\n")
