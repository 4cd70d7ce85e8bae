"""Notices of tasks that change on any replica: a channel of Redis, and what has changed by number behind it.

A channel forgets, so each change has a number, and its task an entry in a set by number: after every (re)connection,
and every `POLL_S`, the tasks that have changed since the last number are read and told as they are by then. A message
names the number before its own, so that hearing on cannot hide a gap; one whose record was too long to be sent is read.

Called by: `storage.redis.tasks`, for each `watch`. Deliberately not: a log of what happened; a task that changed three
times while nobody heard is told once.

Laws: nothing is told twice on one connection (`rev`); after a new connection the numbers may have gone back with a
failover, so the last `OVERLAP_US` are read again; what is remembered is bounded. Nothing that Redis does ends this.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import msgspec
import trio
from msgspec import structs

from mcpd.drivers.redis import Message, Redis, RedisError, number, shaped
from mcpd.storage.redis import task_scripts as scripts
from mcpd.storage.redis.keys import Keys
from mcpd.storage.task_states import Task

POLL_S: Final = 2.0
"""How often changes are looked for without having been called: a message on a channel can be lost in silence."""

BEGIN_S: Final = 1.0
"""How long whoever watches waits until changes are heard: on a server that is there, some milliseconds."""

OVERLAP_US: Final = 5_000_000
"""More than what a failover loses."""

READ_ITEMS: Final = 100
MAX_REMEMBERED: Final = 4_096
"""Tasks whose last `rev` is remembered: several times `limits.max_tasks`."""

_START: Final = -1
_log = logging.getLogger(__name__)
decode: Final = msgspec.json.Decoder(Task).decode


class Watch:
    """What one watcher has been told."""

    def __init__(self, redis: Redis, keys: Keys, notice: Callable[[Task], None]) -> None:
        self._redis = redis
        self._keys = keys
        self._notice = notice
        self._last = _START
        """The number of the last change that was heard."""
        self._revs: OrderedDict[str, int] = OrderedDict()
        self._reading = trio.Lock()
        self._begun = trio.Event()
        self._trouble = ""

    def offer(self, task: Task) -> None:
        """Tell of a task, unless that has been done. Not a checkpoint."""
        if task.rev <= self._revs.get(task.id, 0):
            return
        self._revs[task.id] = task.rev
        self._revs.move_to_end(task.id)
        if len(self._revs) > MAX_REMEMBERED:
            self._revs.popitem(last=False)
        self.tell(task)

    def tell(self, task: Task) -> None:
        """Tell of a task, whatever has been told before. Not a checkpoint."""
        self._notice(structs.replace(task, outcome=None))

    async def run(self, looked: Callable[[], None], *, task_status: trio.TaskStatus[None]) -> None:
        """Hear until cancelled; `looked` is called every `POLL_S`. Started when nothing is missed, or Redis is away."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen)
            with trio.move_on_after(BEGIN_S):
                await self._begun.wait()
            task_status.started()
            while True:
                await trio.sleep(POLL_S)
                looked()
                await self._read()

    async def _listen(self) -> None:
        async with self._redis.subscribe(self._keys.task_changes) as subscription:
            while True:
                try:
                    async for item in subscription:
                        if not isinstance(item, Message):
                            self._revs.clear()
                            await self._read(overlap_us=OVERLAP_US)
                            self._begun.set()
                        elif not self._follows(item.payload):
                            await self._read()
                except RedisError as error:
                    self._note(str(error))
                    subscription.close()
                    await trio.sleep(POLL_S)

    def _note(self, trouble: str) -> None:
        """Write one line for each change of what Redis refuses; that it is away is told elsewhere."""
        if trouble and trouble != self._trouble:
            _log.warning("changes of tasks are not heard: %s", trouble)
        self._trouble = trouble

    def _follows(self, payload: bytes) -> bool:
        """Take a message that follows what was heard last; False when something has to be read."""
        try:
            number, before, _, record = payload.split(b" ", 3)
            if int(number) <= self._last:
                return True
            if int(before) != self._last or not record:
                return False
            task = decode(record)
        except (ValueError, msgspec.MsgspecError) as error:
            _log.warning("a change of a task that cannot be read: %s", error)
            return False
        self._last = int(number)
        self.offer(task)
        return True

    async def _read(self, *, overlap_us: int = 0) -> None:
        """Tell what has changed since the last number; the first time, that is where hearing begins."""
        async with self._reading:
            try:
                if self._last == _START:
                    self._last, _ = await self._changed(0)
                else:
                    self._last = max(0, self._last - overlap_us)
                    await self._read_on(self._last)
            except RedisError as error:
                self._note("" if not error.code else str(error))
            else:
                self._note("")

    async def _read_on(self, after: int) -> None:
        while True:
            top, found = await self._changed(after)
            await self._tell(found[0::2])
            if top < after or len(found) < 2 * READ_ITEMS:
                self._last = top if top < after else max(top, self._last)
                return
            after = number(found[-1])

    async def _changed(self, after: int) -> tuple[int, list[bytes]]:
        """Return the number of the last change, and names and numbers of tasks that have changed after `after`."""
        arguments, keys = (after, OVERLAP_US, READ_ITEMS), [self._keys.task_changes]
        reply = await self._redis.run_script(scripts.CHANGED, keys=keys, arguments=arguments, idempotent=True)
        top, found = shaped(reply, tuple[bytes, list[bytes]])
        return number(top), found

    async def _tell(self, names: list[bytes]) -> None:
        keys = [self._keys.task(name.decode("utf-8", "replace")) for name in names]
        for record in await self._redis.pipeline([("HGET", key, "record") for key in keys]):
            if isinstance(record, RedisError):
                raise record
            if record is not None:
                self._offer_written(record)

    def _offer_written(self, record: object) -> None:
        try:
            self.offer(decode(shaped(record, bytes)))
        except msgspec.MsgspecError as error:
            _log.warning("a task that has changed cannot be read: %s", error)
