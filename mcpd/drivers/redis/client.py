"""The client: commands of many tasks over one shared connection, other connections for what would hold it up.

    redis = Redis("redis://localhost")
    await nursery.start(redis.run)
    await redis.execute("SET", "key", "value", "PX", 5000)
    await redis.pipeline([("GET", "a"), ("GET", "b")])
    await redis.run_script(SCRIPT, keys=["k"], arguments=[1])
    async with redis.lease() as connection:          # blocking commands, WATCH, large values
        await connection.call("BLPOP", "list", 0)
    async with redis.subscribe("channel") as subscription:
        async for item in subscription: ...

There is no `timeout=`: the caller's cancel scope ends a wait, and `patience_s` bounds the wait for a server that is not
there. A command is sent again only when the server said that it did not run, or when the caller says `idempotent=True`.

Called by: the adapters in `storage`. Knows nothing of MCP. Deliberately not: Cluster, Sentinel, decoding of replies.

Laws: one command, one execution (`errors`); `run` reconnects with backoff until it is cancelled, and subscriptions
with it; cancelling a leased exchange closes its connection, and its place becomes free.
"""

from __future__ import annotations

import hashlib
import random
import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import trio

from mcpd.drivers.redis import address
from mcpd.drivers.redis.connection import Connection, connect
from mcpd.drivers.redis.errors import CLOSING, NotExecuted, OutcomeUnknown, RedisError, Unreachable, classify
from mcpd.drivers.redis.pipeline import Pipeline
from mcpd.drivers.redis.subscription import Subscription
from mcpd.drivers.resp import Argument, ErrorReply, encode
from mcpd.drivers.timing import Observe, Outcome, Timed

SHORTEST_PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 2.0
MAX_IDLE_LEASES: Final = 4
LARGE_BYTES: Final = 64 << 10
"""A command of more goes over a leased connection: everybody behind it would wait."""

SLOWEST_BYTES_S: Final = 1 << 20
"""Such a command is given, besides `stall_s`, the time that its bytes take at this pace."""

Command = Sequence[Argument]
PIPELINE: Final = "PIPELINE"
"""What is observed of several commands in one go."""


class Options(NamedTuple):
    """The numbers of a client, seconds and items."""

    connect_s: float = 5.0
    """Connecting, TLS and greeting together."""
    stall_s: float = 5.0
    """A request that has waited so long for its reply ends the shared connection."""
    patience_s: float = 2.0
    """How long a caller waits for a server that is not there, if its own scope allows."""
    max_leases: int = 64
    """Leased connections at once; who wants one more waits."""


class Statistics(NamedTuple):
    """A client at one moment."""

    connected: bool
    queued: int
    in_flight: int
    leased: int
    idle: int
    reconnects: int
    subscribed: int


class Script:
    """A Lua script, called by its digest. One home for each: make it once, at import. `name` is what is observed."""

    __slots__ = ("digest", "name", "source")

    def __init__(self, source: str, name: str = "EVALSHA") -> None:
        self.source = source
        self.name = name
        self.digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


class Redis:
    """A client of one server; works while `run` runs.

    `observe` hears of each command, pipeline and script that is not on a leased connection (`drivers.timing`).
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "",
        tls: ssl.SSLContext | None = None,
        options: Options | None = None,
        observe: Observe | None = None,
    ) -> None:
        self.address = address.parse(url)
        self._name = name
        self._tls = ssl.create_default_context() if tls is None and self.address.tls else tls
        self._options = options or Options()
        self._shared: Pipeline | None = None
        self._changed = trio.Event()
        self._down_since: float | None = None
        self._down_because = "not connected yet"
        self._idle: list[Connection] = []
        self._places = trio.CapacityLimiter(self._options.max_leases)
        self._connects = 0
        self._observe = observe
        self._subscriptions: set[Subscription] = set()
        self.server: dict[str, str] = {}
        """What the server said of itself when it was last greeted: `server`, `version`, `role`, `mode`."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the shared connection open until cancelled; started after the first attempt, whatever came of it.

        Raises: Refused when the server turns the first attempt down for good (password, version). Later refusals are
        told to callers, and tried again.
        """
        longest = SHORTEST_PAUSE_S
        try:
            connection = await self._first_attempt()
            if connection is None:
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
            while True:
                since = trio.current_time()
                if connection is not None:
                    await self._serve(connection, task_status)
                    task_status = trio.TASK_STATUS_IGNORED
                if trio.current_time() - since > LONGEST_PAUSE_S:
                    longest = SHORTEST_PAUSE_S
                await trio.sleep(random.uniform(longest / 2, longest))  # noqa: S311 - only to fall out of step
                longest = min(longest * 2, LONGEST_PAUSE_S)
                connection = await self._attempt()
        finally:
            self._close_idle()

    async def _first_attempt(self) -> Connection | None:
        try:
            return await self._connect()
        except NotExecuted as error:
            self._went_down(str(error))
            return None

    async def _attempt(self) -> Connection | None:
        try:
            return await self._connect()
        except RedisError as error:
            self._went_down(str(error))
            return None

    async def _serve(self, connection: Connection, task_status: trio.TaskStatus[None]) -> None:
        self._connects += 1
        self.server = connection.server
        self._down_since = None
        shared = self._shared = Pipeline(connection, stall_s=self._options.stall_s)
        self._tell()
        task_status.started()
        if self._connects > 1:
            self._renew_subscriptions()
        try:
            await shared.run()
        finally:
            self._shared = None
            self._went_down(str(shared.failure))
            self._close_idle()

    def _renew_subscriptions(self) -> None:
        """Have them follow: the server they stand with may live on, and be the one that this client has left."""
        for subscription in self._subscriptions:
            subscription.close()

    def _went_down(self, reason: str) -> None:
        if self._down_since is None:
            self._down_since = trio.current_time()
        self._down_because = reason.removeprefix(str(self.address)).lstrip(": ")
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    @property
    def failure(self) -> str:
        """Why there is no connection, without a password; empty while there is one."""
        return "" if self._shared is not None else f"{self.address} is not there: {self._down_because}"

    async def wait_change(self) -> None:
        """Return when the connection was made or lost, or another attempt has failed. Cancellation: safe."""
        await self._changed.wait()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().abort()

    async def execute(self, *command: Argument, idempotent: bool = False) -> Any:
        """Run one command and return its reply. `idempotent` allows running it again when its outcome is unknown.

        Cancellation: safe; the command may have run.
        Raises: NotExecuted, OutcomeUnknown, Refused.
        """
        if self._observe is None:
            return await self._execute(command, idempotent)
        with Timed(self._observe, str(command[0]).upper(), _outcome):
            return await self._execute(command, idempotent)

    async def _execute(self, command: Command, idempotent: bool) -> Any:
        data = encode(command)
        deadline = trio.current_time() + self._options.patience_s
        pause = SHORTEST_PAUSE_S
        while True:
            try:
                reply = (await self._send(data, 1, deadline))[0]
                if isinstance(reply, ErrorReply):
                    raise classify(reply)
            except (NotExecuted, OutcomeUnknown) as error:
                self._note(error)
                again = isinstance(error, NotExecuted) or idempotent
                if not again or error.code in _FINAL or trio.current_time() + pause >= deadline:
                    raise
            else:
                return reply
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _note(self, error: RedisError) -> None:
        """Leave a server that has become a replica: the address may lead elsewhere now."""
        if error.code in CLOSING and self._shared is not None:
            self._shared.close(error)

    async def _send(self, data: bytes, expected: int, deadline: float) -> list[Any]:
        if len(data) > LARGE_BYTES:
            async with self.lease() as connection:
                with trio.move_on_after(self._options.stall_s + len(data) / SLOWEST_BYTES_S):
                    return await connection.exchange(data, expected)
                raise OutcomeUnknown(f"{self.address}: no reply to {len(data)} bytes in time")
        return await (await self._wait_connected(deadline)).submit(data, expected)

    async def _wait_connected(self, deadline: float) -> Pipeline:
        while self._shared is None:
            down_for = 0.0 if self._down_since is None else trio.current_time() - self._down_since
            if down_for >= self._options.patience_s:
                raise Unreachable(self.failure)
            with trio.move_on_at(deadline) as scope:
                await self._changed.wait()
            if scope.cancelled_caught:
                raise Unreachable(self.failure)
        return self._shared

    async def pipeline(self, commands: Iterable[Command]) -> list[Any]:
        """Run commands in one go and return their replies in order, each error as a RedisError in its place.

        Others' commands may run in between. Cancellation: none, some or all may have run.
        Raises: NotExecuted (none has run), OutcomeUnknown.
        """
        encoded = [encode(command) for command in commands]
        if not encoded:
            return []
        data, deadline = b"".join(encoded), trio.current_time() + self._options.patience_s
        if self._observe is None:
            replies = await self._send(data, len(encoded), deadline)
        else:
            with Timed(self._observe, PIPELINE, _outcome):
                replies = await self._send(data, len(encoded), deadline)
        return self._classified(replies)

    def _classified(self, replies: Iterable[Any]) -> list[Any]:
        """Return replies with each error as what it means; leave a server whose error says that it is the wrong one."""
        classified = [classify(reply) if isinstance(reply, ErrorReply) else reply for reply in replies]
        for reply in classified:
            if isinstance(reply, RedisError):
                self._note(reply)
        return classified

    async def transaction(self, commands: Iterable[Command]) -> list[Any]:
        """Run commands with nothing in between (MULTI, EXEC); replies as `pipeline` gives them.

        There is no rollback: a command that fails does not keep the others from having run.
        Raises: NotExecuted, Refused when the server took none of them; OutcomeUnknown.
        """
        *queued, results = await self.pipeline([["MULTI"], *commands, ["EXEC"]])
        if isinstance(results, RedisError):
            raise next((error for error in queued if isinstance(error, RedisError)), results)
        return self._classified(results)

    async def run_script(
        self,
        script: Script,
        *,
        keys: Sequence[Argument] = (),
        arguments: Sequence[Argument] = (),
        idempotent: bool = False,
    ) -> Any:
        """Run a script by its digest, by its source where the server does not know it. Raises: as `execute`."""
        rest = (len(keys), *keys, *arguments)
        if self._observe is None:
            return await self._run_script(script, rest, idempotent)
        with Timed(self._observe, script.name, _outcome):
            return await self._run_script(script, rest, idempotent)

    async def _run_script(self, script: Script, rest: Command, idempotent: bool) -> Any:
        try:
            return await self._execute(("EVALSHA", script.digest, *rest), idempotent)
        except NotExecuted as error:
            if error.code != "NOSCRIPT":
                raise
        return await self._execute(("EVAL", script.source, *rest), idempotent)

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Connection]:
        """Have a connection for oneself; it is used again only if every exchange on it was whole.

        Cancellation: closes the connection if it comes within an exchange. Raises: Unreachable, Refused.
        """
        async with self._places:
            connection = self._idle.pop() if self._idle else await self._connect()
            whole = False
            try:
                yield connection
                whole = True
            finally:
                if whole and connection.usable and self._shared is not None and len(self._idle) < MAX_IDLE_LEASES:
                    self._idle.append(connection)
                else:
                    connection.abort()

    @asynccontextmanager
    async def subscribe(self, *channels: bytes | str) -> AsyncIterator[Subscription]:
        """Listen to channels; see `subscription`."""
        names = tuple(name if isinstance(name, bytes) else name.encode() for name in channels)
        subscription = Subscription(names, self._connect, stall_s=self._options.stall_s)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            subscription.close()

    async def _connect(self) -> Connection:
        return await connect(self.address, name=self._name, connect_s=self._options.connect_s, tls=self._tls)

    def statistics(self) -> Statistics:
        """Return how the client stands."""
        shared = self._shared
        return Statistics(
            connected=shared is not None,
            queued=0 if shared is None else shared.queued,
            in_flight=0 if shared is None else shared.in_flight,
            leased=int(self._places.borrowed_tokens),
            idle=len(self._idle),
            reconnects=max(0, self._connects - 1),
            subscribed=sum(subscription.listening for subscription in self._subscriptions),
        )


def _outcome(error: BaseException) -> Outcome:
    if isinstance(error, NotExecuted):
        return "unavailable"
    return "unknown" if isinstance(error, OutcomeUnknown) else "refused"


_FINAL: Final = frozenset({"NOSCRIPT", "EXECABORT"})
"""Not executed, and would not be the next time either."""
