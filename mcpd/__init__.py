"""mcpd: tools, documents and prompts for AI agents, served over MCP.

These names are all that an author of tools needs. They are loaded when first used, so that `import mcpd` costs nothing:
a worker process loads msgspec and the author's module, and neither Trio nor the web stack. `__init__.pyi` tells type
checkers where the names come from, and a test keeps the two lists equal.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "tool": "mcpd.authoring.declarations",
    "resource": "mcpd.authoring.declarations",
    "prompt": "mcpd.authoring.declarations",
    "completion": "mcpd.authoring.declarations",
    "Context": "mcpd.authoring.context",
    "Meta": "mcpd.authoring.hints",
    "ToolError": "mcpd.errors",
    "RpcError": "mcpd.errors",
    "Text": "mcpd.authoring.content",
    "Image": "mcpd.authoring.content",
    "Audio": "mcpd.authoring.content",
    "ResourceLink": "mcpd.authoring.content",
    "Embedded": "mcpd.authoring.content",
    "Elicit": "mcpd.authoring.content",
    "Sample": "mcpd.authoring.content",
    "Roots": "mcpd.authoring.content",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'mcpd' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
