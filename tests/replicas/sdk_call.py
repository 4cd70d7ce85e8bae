"""Lists the served folder once with the official Python SDK's client: `python sdk_call.py URL auto|legacy`.

"auto" speaks 2026-07-28, "legacy" begins a session of 2025-11-25. It prints the revision and the files. Run as a
program, as the SDK's imports warn of things that are not ours.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import anyio
from mcp import Client

warnings.simplefilter("ignore")  # the handshake era's methods are marked as deprecated


async def main(url: str, mode: Any) -> None:
    """Connect, call, print."""
    async with Client(url, mode=mode) as client:
        result = await client.call_tool("list_files", {"path": "."})
        print(client.protocol_version, result.structured_content)


anyio.run(main, sys.argv[1], sys.argv[2], backend="trio")
