"""Where a Redis server is and how to greet it: `redis://` and `rediss://` URLs, and Unix sockets, as a value.

    redis://[[USER]:PASSWORD@]HOST[:PORT][/0]      plain TCP
    rediss://...                                   TLS, its certificate checked against the host's name
    unix://[[USER]:PASSWORD@]/PATH                 a Unix socket (`redis+unix` likewise)

User, password and path are percent-decoded. Only database 0: a number is no border, Cluster has no others, and keys
carry a prefix instead.

Called by: `client`. Pure. Deliberately not: a connection, nor any option that is not part of where the server is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from mcpd.drivers.redis.errors import Refused

DEFAULT_PORT: Final = 6379


@dataclass(frozen=True)
class Address:
    """A server. `path` is a Unix socket's, else empty. Neither its text nor its repr has the password."""

    host: str = "localhost"
    port: int = DEFAULT_PORT
    path: str = ""
    tls: bool = False
    username: str = ""
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        """Return what may be shown."""
        if self.path:
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{host}:{self.port}"


def parse(url: str) -> Address:
    """Return the address that `url` names. Raises: Refused, without any part of it: it may hold a password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Refused("This is no URL of a Redis server; / ? # [ ] @ % of a password are written as %2F ...") from None
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if parts.query or parts.fragment:
        raise Refused("The URL of a Redis server has no ?query and no #fragment here")
    if user and not password:
        raise Refused("A user name in the URL needs a password: redis://user:password@host")
    if parts.scheme in ("unix", "redis+unix"):
        return Address(path=_path(parts), username=user, password=password)
    if parts.scheme not in ("redis", "rediss"):
        raise Refused("The URL of a Redis server begins with redis://, rediss:// or unix://")
    if parts.path not in ("", "/", "/0"):
        raise Refused("Only database 0 is used; keys have a prefix of their own")
    secure, host = parts.scheme == "rediss", parts.hostname or "localhost"
    try:
        host.encode("idna")
    except UnicodeError:
        raise Refused("The host in the URL of a Redis server cannot be the name of one") from None
    return Address(host, port or DEFAULT_PORT, tls=secure, username=user, password=password)


def _path(parts: SplitResult) -> str:
    if parts.hostname or not parts.path.startswith("/") or parts.path == "/":
        raise Refused("A Unix socket is named by its whole path: unix:///run/redis/redis.sock")
    return unquote(parts.path)
