"""Values that are never shown: a password, a key, a URL with one in it.

Whoever needs one for its purpose asks with `reveal`; whatever prints, formats or logs it gets asterisks.

Called by: `config`, whose fields they are, `settings`, and whoever reveals one. A leaf; pure. Deliberately not: wiping
from memory, which Python cannot promise.

Sources: surfaces "Configuration"; SEC-3.
"""

from __future__ import annotations

import re


class Secret:
    """A string that is never shown: `repr`, `str` and format give `***`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the string itself; the caller must not log or store it."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


class SecretUrl(Secret):
    """A URL that may hold a user and a password: shown without what stands before its last `@` or after a `?`."""

    __slots__ = ()

    def __repr__(self) -> str:
        scheme, mark, rest = self.reveal().partition("://")
        if not mark:
            return "***"
        user, at, place = rest.rpartition("@")
        return f"{scheme}://{'***@' if user or at else ''}{re.split('[?#]', place, maxsplit=1)[0]}"
