"""The tool of the benchmarks, as an author of mcpd writes it.

Loaded by: `python -m mcpd serve --tools tests/bench/echo.py` (see `servers`).
"""

from mcpd import tool


@tool
async def echo(text: str) -> str:
    """Return the text unchanged."""
    return text
