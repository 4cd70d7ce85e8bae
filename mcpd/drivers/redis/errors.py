"""What can go wrong between a client and Redis, by the only question that matters: did the command run?

    RedisError
    ├── NotExecuted          it did not run; sending it again does no harm
    │   └── Unreachable      nor is there a server that takes commands now
    ├── OutcomeUnknown       it may have run: its bytes were sent and its reply never came
    ├── Refused              the server's final word: wrong type, no permission, a script's own error
    └── Garbled              it ran, or something did: the reply is none that this command has

Called by: the other files of this package, and by adapters that turn these into errors of their own. Pure. Deliberately
not: retries, which are `client`'s.

Sources: `classify` is the one table of error codes, checked against Redis 7.0 and 8.2 and Valkey 8 and 9.
"""

from __future__ import annotations

from typing import Final

from mcpd.drivers.resp import ErrorReply
from mcpd.errors import McpdError


class RedisError(McpdError):
    """Anything that a Redis client raises. `code` is the first word of the server's error, or empty."""

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.code = code


class NotExecuted(RedisError):
    """The command did not run."""


class Unreachable(NotExecuted):
    """No server takes commands at the moment."""


class OutcomeUnknown(RedisError):
    """The command was sent, and the connection ended before its reply came."""


class Refused(RedisError):
    """The server will not do this, however often it is asked."""


class Garbled(RedisError):
    """The reply is not of the form that it has to have: this is no Redis, or a proxy has its own mind."""


_WAITING: Final = frozenset({"LOADING", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "NOREPLICAS"})
_MOVED: Final = frozenset({"READONLY", "MASTERDOWN", "UNBLOCKED"})
_STORING: Final = frozenset({"OOM", "MISCONF"})
_MAX_CLIENTS: Final = "ERR max number of clients reached"

PASSING: Final = _WAITING | _MOVED
"""Codes that may be gone in a moment: worth asking again soon."""

CLOSING: Final = _MOVED
"""Codes after which the connection leads to the wrong server."""


def classify(reply: ErrorReply) -> RedisError:
    """Return the error that `reply` means, outside of a transaction's results.

    An error within a script may come after something that it has done, except where the server takes no writes at all.
    """
    code, text = reply
    if " script: " in text and code not in ("NOSCRIPT", "BUSY", "READONLY"):
        return Refused(text, code)
    if code in PASSING or code in ("NOSCRIPT", "EXECABORT"):
        return NotExecuted(text, code)
    if code in _STORING or text.startswith(_MAX_CLIENTS):
        return Unreachable(text, code)
    return Refused(text, code)
