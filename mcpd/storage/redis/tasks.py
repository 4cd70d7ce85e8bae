"""Tasks in Redis, for all replicas: a hash for each, and what is asked for beside it.

    record    as JSON without its outcome, which is apart; `rev`, owner and the token of its last change
    indexes   by expiry, in all and of each share; by state and owner; by the number of the last change

A record is read, `storage.task_states` decides, and a script writes only if it is still the record that was read, and
its owner has not been given up; else that is done again. `task_scripts` has the scripts, `task_notices` how changes are
heard, `lease` who of the replicas lives. Time is the server's.

Called by: `storage.redis.shared`. Implements `storage.shared.TaskStore`. Deliberately not: the state machine.

Laws: 5, 7, 12. The key of a task ends by itself. Owning goes on while Redis is away; once the epoch was refused, the
tasks that ran under it are told as failed, so that their work stops. A creation whose outcome stayed unknown is ended
by `recover`. What Redis loses is unknown.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, cast

import msgspec
import trio
from msgspec import structs

from mcpd.drivers.redis import Redis, RedisError, Script, number, shaped
from mcpd.storage.documents import StoreUnreachable
from mcpd.storage.redis import task_scripts as scripts
from mcpd.storage.redis.keys import Keys
from mcpd.storage.redis.lease import Lease
from mcpd.storage.redis.task_notices import Watch, decode
from mcpd.storage.shared import NoRoom, Room
from mcpd.storage.task_states import Answer, Draft, End, Event, Refused, State, Task, lost, new_task, step

ATTEMPTS: Final = 100
"""At one change: each that is in vain was somebody else's success."""

_LOOK: Final = Answer({})
"""Changes nothing."""


class _Written(NamedTuple):
    record: bytes
    alive: int
    size: int
    outcome: bytes | None


class _Found(NamedTuple):
    now_s: float
    task: Task | None = None
    alive: bool = False


class RedisTasks:
    """Implements `TaskStore`; works while the lease and the client run. `clock` stands in for the server's time."""

    def __init__(self, redis: Redis, keys: Keys, lease: Lease, *, clock: Callable[[], float] | None = None) -> None:
        self._redis = redis
        self._keys = keys
        self._lease = lease
        self._clock = clock
        self._watches: set[Watch] = set()
        self._running: dict[str, Task] = {}
        """Tasks of this process, as they were created."""

    @property
    def owner(self) -> str:
        """See `TaskStore`; another one once this process was taken for dead, empty while it owns nothing."""
        return self._lease.epoch

    async def _run(self, script: Script, keys: Sequence[str], *arguments: Any) -> Any:
        return await self._redis.run_script(script, keys=keys, arguments=arguments, idempotent=True)

    async def _as_owner(self, script: Script, keys: Sequence[str], *arguments: Any) -> Any:
        """Run a script that wants an owner to ask; it says nothing to one that was given up."""
        said: Any = None
        while not said:
            epoch = await self._lease.hold()
            said = await self._run(script, keys, epoch, self._lease.lease_ms, *arguments)
            if not said:
                self._lease.lose(epoch)
        return said

    def _tell(self, task: Task) -> Task:
        if task.ended:
            self._running.pop(task.id, None)
        for watch in list(self._watches):
            watch.offer(task)
        return task

    async def create(self, draft: Draft, room: Room) -> Task:
        """See `TaskStore`."""
        token = secrets.token_hex(8)
        created = False
        try:
            with _translated():
                said, task = await self._create(draft, token, room)
                while said == b"CLOSED":
                    self._lease.lose(task.owner)
                    said, task = await self._create(draft, token, room)
            created = said == b"NEW"
        finally:
            if not created:
                self._running.pop(draft.id, None)
        if said == b"SHARE":
            raise NoRoom("share", room.most_of_share)
        if said == b"ALL":
            raise NoRoom("all", room.most)
        return self._tell(task)

    async def _create(self, draft: Draft, token: str, room: Room) -> tuple[bytes, Task]:
        owner, now_s, keys = await self._lease.hold(), await self._now(), self._keys
        task = self._running[draft.id] = new_task(draft, owner, now_s=now_s)
        said = await self._run(
            scripts.CREATE,
            [keys.task(task.id), keys.tasks, keys.tasks_of(task.share), *self._indexes, *self._lease.keys],
            task.id,
            owner,
            token,
            msgspec.json.encode(task),
            repr(now_s),
            repr(task.expires_s),
            max(1, round(task.ttl_s * 1000)),
            room.most,
            room.most_of_share,
            self._lease.lease_ms,
        )
        return said, task

    @property
    def _indexes(self) -> tuple[str, str]:
        return self._keys.task_states, self._keys.task_changes

    async def _now(self) -> float:
        if self._clock is not None:
            return self._clock()
        return _seconds(await self._redis.execute("TIME", idempotent=True))

    async def get(self, task_id: str) -> Task | None:
        """See `TaskStore`."""
        found = await self.apply(task_id, _LOOK)
        return found.task if isinstance(found, Refused) else found

    async def peek(self, task_id: str) -> Task | None:
        """See `TaskStore`."""
        with _translated():
            now_s, task, _ = await self._read(task_id, with_outcome=False)
        return None if task is None or now_s >= task.expires_s else task

    async def apply(self, task_id: str, event: Event) -> Task | Refused:
        """See `TaskStore`."""
        with _translated():
            for _ in range(ATTEMPTS):
                after = await self._try(task_id, event)
                if after is not None:
                    return after
        raise StoreUnreachable("this task changes all the time")

    async def _try(self, task_id: str, event: Event) -> Task | Refused | None:
        """Let it happen to the record as it is now; None when that was no longer so."""
        now_s, before, alive = await self._read(task_id)
        if before is None:
            self._let_go(task_id)
            return Refused("gone")
        dead = not (alive or before.ended)
        after = step(before, lost(before) if dead else event, now_s=now_s)
        if after is before:
            return before
        if isinstance(after, Refused):
            if after.why in ("gone", "ended"):
                self._let_go(task_id, after.task)
            return after
        if not await self._write(before, after, fence="" if dead else before.owner):
            return None
        self._tell(after)
        return Refused("ended", after) if dead else after

    async def _read(self, task_id: str, *, with_outcome: bool = True) -> _Found:
        key = self._keys.task(task_id)
        keys = [key, *self._lease.keys]
        reply = await self._as_owner(scripts.READ, keys, scripts.MAX_INLINE_BYTES if with_outcome else -1)
        said = shaped(reply, list[Any])
        now_s = _seconds(said[:2]) if self._clock is None else self._clock()
        if not said[2:]:
            return _Found(now_s)
        record, alive, size, outcome = shaped(said[2:], _Written)
        if with_outcome and size > scripts.MAX_INLINE_BYTES:
            async with self._redis.lease() as connection:
                outcome = await connection.call("HGET", key, "outcome")
        return _found(now_s, record, outcome, bool(alive))

    async def _write(self, before: Task, after: Task, *, fence: str) -> bool:
        record = msgspec.json.encode(structs.replace(after, outcome=None))
        outcome = () if after.outcome is None else (after.outcome,)
        keys = self._keys
        said = await self._run(
            scripts.WRITE,
            [keys.task(after.id), *self._indexes, keys.owners, keys.tasks, keys.tasks_of(after.share)],
            after.id,
            before.rev,
            fence,
            secrets.token_hex(8),
            after.state,
            after.owner,
            record,
            repr(after.expires_s),
            max(1, round((after.expires_s - after.updated_s) * 1000)),
            *outcome,
        )
        return bool(said)

    async def recover(self) -> int:
        """See `TaskStore`. Whoever calls it beats from then on, so that there is no gap in all beats when one dies."""
        with _translated():
            reply = await self._as_owner(scripts.LOST, [self._keys.task_states, *self._lease.keys])
            dead, mine = (list(map(_text, names)) for names in shaped(reply, tuple[list[bytes], list[bytes]]))
        ended = [await self.apply(name, _LOOK) for name in dead]
        nobodys = [name for name in mine if name not in self._running]
        for name in nobodys:
            await self.apply(name, End(self.owner, "failed", None, "It has never begun"))
        return len(nobodys) + sum(isinstance(after, Refused) and after.why == "ended" for after in ended)

    async def purge(self) -> int:
        """See `TaskStore`. Records are gone by themselves, their entries go here."""
        with _translated():
            keys = [self._keys.tasks, *self._indexes]
            return number(await self._run(scripts.PURGE, keys, repr(await self._now()), scripts.MAX_PURGED_ITEMS))

    async def count(self) -> Mapping[State, int]:
        """See `TaskStore`."""
        with _translated():
            told = shaped(await self._run(scripts.COUNT, [self._keys.task_states]), list[Any])
            counts = zip(map(_text, told[0::2]), map(number, told[1::2]), strict=False)
            return {cast("State", state): count for state, count in counts}

    async def watch(
        self, notice: Callable[[Task], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """See `TaskStore`. It outlasts every outage, and raises nothing."""
        watch = Watch(self._redis, self._keys, notice)
        self._watches.add(watch)
        try:
            await watch.run(self._look_after, task_status=task_status)
        finally:
            self._watches.discard(watch)

    def _look_after(self) -> None:
        """Let go of the tasks that ran under an epoch that is over, whatever has become of their records."""
        for task in list(self._running.values()):
            if task.owner != self.owner:
                self._let_go(task.id)

    def _let_go(self, task_id: str, ended: Task | None = None) -> None:
        """Tell here that a task of this process has ended, or failed when nothing is known of it any more."""
        task = self._running.pop(task_id, None)
        if task is not None:
            for watch in list(self._watches):
                watch.tell(ended or structs.replace(task, owner="", state="failed"))


def _found(now_s: float, record: bytes, outcome: bytes | None, alive: bool) -> _Found:
    """Return what was read; what another version wrote and this one cannot read is not there."""
    try:
        return _Found(now_s, structs.replace(decode(record), outcome=outcome), alive)
    except msgspec.MsgspecError:
        return _Found(now_s)


def _seconds(reply: object) -> float:
    seconds, micros = shaped(reply, tuple[bytes, bytes])
    return number(seconds) + number(micros) / 1_000_000


def _text(name: object) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


@contextmanager
def _translated() -> Iterator[None]:
    """Raise storage errors for what the client raises inside (law 7)."""
    try:
        yield
    except RedisError as error:
        raise StoreUnreachable(str(error)) from error
