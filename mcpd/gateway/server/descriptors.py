"""File descriptors: as many as the limits promise connections, and a reserve that connections never take.

A server without descriptors cannot open a file, start a worker or read its store, and whoever merely connects could
bring that about.

Called by: `app` (at start), `gateway.server.places`. Deliberately not: a count of what is open. The kernel gives out
the lowest free number, so a connection whose number is high says by itself that few are left.

Laws: the soft limit is raised as far as the hard one allows, never lowered; what is still missing is said once, at
start.

Sources: getrlimit(2); POSIX on file descriptor allocation.
"""

from __future__ import annotations

import contextlib
import logging
import resource

from mcpd.errors import ConfigurationError

_log = logging.getLogger(__name__)
RESERVE = 128
"""For files, stores, workers, log and listening sockets: 40 threads with two files each, and the rest."""


LEAST = 64
"""Below it not even the stores, the workers and a few connections find room."""


def claim(max_connections: int) -> None:
    """Raise the limit of open files to what `max_connections` needs; warn when it cannot be had.

    Raises: ConfigurationError when it is too low to serve anybody.
    """
    wanted = max_connections + RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    check(hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    if count_for_connections() < max_connections:
        _log.warning(
            "limits.max_connections is %d, but the limit of open files is %d: connections beyond %d are refused. "
            "Raise the limit (ulimit -n %d) or lower the setting",
            max_connections,
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            count_for_connections(),
            wanted,
        )


def check(hard: int) -> None:
    """Judge the hard limit of open files. Raises: ConfigurationError when it is too low to serve anybody."""
    if hard != resource.RLIM_INFINITY and hard < LEAST:
        raise ConfigurationError(
            f"The limit of open files is {hard}, and a server needs {LEAST} at least: ulimit -n {RESERVE}"
        )


def count_for_connections() -> int:
    """Return the number from which on a descriptor belongs to the reserve."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return 2**31
    return max(soft - RESERVE, soft // 2)
