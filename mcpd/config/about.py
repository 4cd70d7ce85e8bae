"""What the field of a setting says of itself: unit, reason, and what its value may be.

    port: int = field(default=8000, metadata=about("port", "Free on most machines.", minimum=0, maximum=65535))

The loader, `mcpd check` and the reference table read it from the field's metadata.

Called by: the other modules of `config`; `settings` reads `About`. Pure values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

KIB = 1024
MIB = 1024 * KIB


class About(NamedTuple):
    """What a setting's field says of itself besides its type and default."""

    unit: str
    reason: str
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]


def about(
    unit: str,
    reason: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
) -> Mapping[str, About]:
    """Return the metadata of a field."""
    return {"about": About(unit, reason, minimum, maximum, choices)}


def count(unit: str, reason: str, *, minimum: float = 1) -> Mapping[str, About]:
    """Return the metadata of a number of things, or of bytes."""
    return about(unit, reason, minimum=minimum)


def seconds(reason: str, *, minimum: float = 0.001) -> Mapping[str, About]:
    """Return the metadata of a time."""
    return about("seconds", reason, minimum=minimum, maximum=86400 * 365)
