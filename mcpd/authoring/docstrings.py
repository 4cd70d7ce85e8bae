"""Read a Google-style docstring: what the function is for, and what each argument means.

`parse` splits off the `Args:` section and drops the sections that speak to Python programmers (returns, raises); the
rest is the description that a model sees. Anything that does not look like a section stays as it is.

Called by `signatures`. Pure text; knows nothing of types.

Source: Google Python Style Guide, section 3.8.3.
"""

from __future__ import annotations

import inspect
import re

_HEADER = re.compile(r"(?P<name>[A-Z][A-Za-z ]*):\s*$")
_ARGUMENT = re.compile(r"\*{0,2}(?P<name>\w+)\s*(\([^)]*\))?\s*:\s*(?P<text>.*)$")
_ARGUMENTS = frozenset({"Args", "Arguments", "Parameters"})
_DROPPED = frozenset({"Returns", "Return", "Raises", "Yields", "Yield"})


def parse(docstring: str | None) -> tuple[str | None, dict[str, str]]:
    """Return the description (None when there is none) and the text of each described argument."""
    kept: list[str] = []
    described: list[str] = []
    target: list[str] | None = kept
    for line in inspect.cleandoc(docstring or "").splitlines():
        header = _HEADER.match(line)
        if header is not None and header["name"] in _ARGUMENTS | _DROPPED:
            target = described if header["name"] in _ARGUMENTS else None
            continue
        if line and not line.startswith(" "):
            target = kept
        if target is not None:
            target.append(line)
    return "\n".join(kept).strip() or None, _arguments(described)


def _arguments(lines: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    name, indent = "", None
    for line in lines:
        depth = len(line) - len(line.lstrip())
        match = _ARGUMENT.match(line.strip())
        if match and (indent is None or depth <= indent):
            name, indent = match["name"], depth
            found[name] = match["text"]
        elif name and line.strip():
            found[name] = f"{found[name]} {line.strip()}".strip()
    return found
