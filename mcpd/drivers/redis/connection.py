"""One connection to a Redis server: opened and greeted within one deadline, then one exchange after the other.

`connect` opens the socket, makes TLS, says `HELLO 3` with user, password and name, and refuses servers that are too
old, all within `connect_s`: a stopped server accepts connections and never answers, and so does a plain port that is
spoken to in TLS.

Called by: `client` (the shared connection and leased ones), `subscription`. Calls `resp`. Deliberately not: sharing
between tasks (`pipeline`), reconnecting.

Laws: whatever ends an exchange half-way, a cancellation too, closes the connection (law 6); closing never waits for the
peer.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Any, Final

import trio

from mcpd.drivers.redis.address import Address
from mcpd.drivers.redis.errors import OutcomeUnknown, Refused, Unreachable, classify
from mcpd.drivers.resp import Argument, ErrorReply, Parser, ProtocolError, Push, encode
from mcpd.errors import SHOWN_CHARS

RECEIVE_BYTES: Final = 64 << 10
OLDEST: Final = {"redis": (7, 0), "valkey": (8, 0)}
"""The first versions with what is relied on: `NO-EVICT`, `PEXPIRE GT`, effects replication of scripts."""

_REPLICAS: Final = ("replica", "slave")
"""Roles of a server that takes no writes; an address that led to one may lead to its primary soon."""

LOST: Final = (trio.BrokenResourceError, trio.ClosedResourceError, ProtocolError, OSError)
"""What a stream or a parser raises when a connection is of no more use."""


class Connection:
    """An open connection. One task at a time; `call` is one exchange. Resources: whoever opened it closes it."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._parser = Parser()
        self._ready: list[Any] = []
        self.server: dict[str, str] = {}
        """What the server says of itself: `server`, `version`, `role`, `mode`."""
        self.usable = True
        """False once an exchange has broken off: never to be used again."""

    async def call(self, *arguments: Argument) -> Any:
        """Send one command and return its reply. Pushes that come before it are dropped.

        Cancellation: closes the connection; the command may have run.
        Raises: NotExecuted, Refused for the server's errors; OutcomeUnknown when the connection ends.
        """
        reply = (await self.exchange(encode(arguments), 1))[0]
        if isinstance(reply, ErrorReply):
            raise classify(reply)
        return reply

    async def exchange(self, data: bytes, expected: int) -> list[Any]:
        """Send encoded commands and return their `expected` replies, errors as `ErrorReply`.

        Cancellation: closes the connection; none, some or all of the commands may have run.
        Raises: OutcomeUnknown when the connection ends before the last reply.
        """
        replies: list[Any] = []
        whole = False
        try:
            await self.send(data)
            while len(replies) < expected:
                replies += [item for item in await self.receive() if not isinstance(item, Push)]
            whole = len(replies) == expected and self._parser.idle
        except LOST as error:
            raise OutcomeUnknown(f"the connection ended before the reply: {_told(error)}") from error
        finally:
            if not whole:
                self.abort()
        return replies

    async def send(self, data: bytes) -> None:
        """Send encoded commands. Cancellation: poisons; the caller closes."""
        await self._stream.send_all(data)

    async def receive(self) -> list[Any]:
        """Return what came next, at least one reply or push.

        Raises: one of LOST. Cancellation: safe; what has come is kept.
        """
        while True:
            data = await self._stream.receive_some(RECEIVE_BYTES)
            if not data:
                raise trio.BrokenResourceError("the server has closed the connection")
            if items := self._parser.receive(bytes(data)):
                return items

    def abort(self) -> None:
        """Close at once, without a word. Idempotent; not a checkpoint."""
        self.usable = False
        stream = self._stream.transport_stream if isinstance(self._stream, trio.SSLStream) else self._stream
        if isinstance(stream, trio.SocketStream):
            stream.socket.close()


async def connect(
    address: Address, *, name: str = "", connect_s: float, tls: ssl.SSLContext | None = None
) -> Connection:
    """Open a connection and greet the server, all within `connect_s` seconds.

    Raises: Unreachable when there is no answer in time; Refused for a wrong password or a server that is too old.
    Cancellation: safe, nothing is left open.
    """
    connection: Connection | None = None
    ready = False
    try:
        with trio.fail_after(connect_s):
            connection = Connection(await _open(address, tls))
            await _greet(connection, address, name)
            ready = True
            return connection
    except trio.TooSlowError:
        raise Unreachable(f"{address} did not answer within {connect_s:g} s") from None
    except (OutcomeUnknown, ssl.SSLError, *LOST) as error:
        raise Unreachable(f"{address}: {_told(error)}") from error
    finally:
        if connection is not None and not ready:
            connection.abort()


async def _open(address: Address, tls: ssl.SSLContext | None) -> trio.abc.Stream:
    if address.path:
        return await trio.open_unix_socket(address.path)
    stream = await trio.open_tcp_stream(address.host, address.port)
    if not address.tls:
        return stream
    secured = trio.SSLStream(stream, tls or ssl.create_default_context(), server_hostname=address.host)
    done = False
    try:
        await secured.do_handshake()
        done = True
    finally:
        if not done:
            stream.socket.close()
    return secured


async def _greet(connection: Connection, address: Address, name: str) -> None:
    words: list[Argument] = ["HELLO", 3]
    if address.password:
        words += ["AUTH", address.username or "default", address.password]
    if name:
        words += ["SETNAME", name]
    said = await connection.call(*words)
    if not isinstance(said, dict):
        raise ProtocolError("the greeting is no map: this is no Redis server")
    connection.server = {_text(key): _text(value) for key, value in said.items()}
    kind, version = connection.server.get("server", ""), connection.server.get("version", "")
    oldest = OLDEST.get(kind)
    if oldest is None or _numbers(version) < oldest:
        needed = " or ".join(f"{known} {major}.{minor}" for known, (major, minor) in OLDEST.items())
        raise Refused(f"{address} runs {kind} {version}"[:SHOWN_CHARS] + f"; {needed} or newer is needed")
    if connection.server.get("role") in _REPLICAS:
        raise Unreachable(f"{address} is a replica and takes no writes: name its primary", "READONLY")


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _numbers(version: str) -> tuple[int, ...]:
    with suppress(ValueError):
        return tuple(int(part) for part in version.split(".")[:2])
    return (0,)


def _told(error: BaseException) -> str:
    reason = error.__cause__ if isinstance(error, trio.BrokenResourceError) and error.__cause__ else error
    return str(reason) or type(reason).__name__
