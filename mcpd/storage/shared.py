"""The contracts of what calls share beyond their own lifetime, and beyond one process.

`TaskStore` keeps the records of tasks and moves them through the state machine of `storage.task_states`. `SessionStore`
keeps those of HTTP sessions (`storage.session_records`). `Idempotency` keeps which calls with a key run and how they
ended. `RateLimits` counts. `CacheStore` is the second level of caches, where there are replicas. Memory serves one
process; SQLite serves all processes on one data folder, and what was acknowledged is on the disk; Redis serves all
replicas. No method takes a time limit: callers have scopes.

Called by: `tasks`, `idempotency`, `messages.sessions`, `messages.rates`, `resources.cache`, `search`; opened by
`storage.open`. Implemented by: the packages of the backends. Values and Protocols; nothing here runs. Deliberately not:
policy, which is the caller's.

The contract
- *Acknowledged means durable* (where the backend is): a task that `create` returned is found by any process at once,
  and what `apply` returned survives the death of the process (law 12, TSK-4).
- *One order.* Each change is whole or absent, and two at once are one after the other: `apply` decides on what is
  stored.
- *Owners.* A store is opened as one owner, a random epoch that lives as long as the store is open. Whoever meets a task
  of an owner that is gone ends it as `failed`: `get` and `apply` for their task, `recover` for all. An owner that is
  only slow or stopped is not gone.
- *Notices.* `watch` tells every change, by whatever process, at least once, within about `poll_s`; own ones at once.
- *Cancellation.* A cancelled `create` or `apply` has happened wholly or not at all.

Sources: architecture laws 1, 5, 8, 12; TSK-4, TSK-6, TSK-13.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Literal, NamedTuple, Protocol

import trio

from mcpd.errors import counted
from mcpd.rates import Rate, Taken
from mcpd.storage.documents import StorageError
from mcpd.storage.replies import Replies
from mcpd.storage.session_records import SessionRecord, SessionRoom, Use
from mcpd.storage.task_states import Draft, Event, Refused, State, Task


class Room(NamedTuple):
    """How many records there may be: in all, and of one share. Ended ones count until they are forgotten."""

    most: int
    most_of_share: int


class NoRoom(StorageError):
    """There are as many of `what`, a noun, as there may be; `whose` says whose limit it is."""

    def __init__(self, whose: Literal["all", "share"], most: int, what: str = "task") -> None:
        who = "This caller has" if whose == "share" else "All callers together have"
        super().__init__(f"{who} {counted(most, what)}, which is the limit")
        self.whose = whose


class TaskStore(Protocol):
    """Tasks; see the module's docstring."""

    @property
    def owner(self) -> str:
        """The epoch of this process, which owns the tasks that it creates."""

    async def create(self, draft: Draft, room: Room) -> Task:
        """Store a new task, owned by this process. Raises: NoRoom; StorageError."""

    async def get(self, task_id: str) -> Task | None:
        """Return a task with its outcome; None for an unknown or expired one. Raises: StorageError."""

    async def peek(self, task_id: str) -> Task | None:
        """Return a task as it is stored, without its outcome; one of an owner that is gone need not have ended yet.

        None for an unknown or expired one. Raises: StorageError.
        """

    async def apply(self, task_id: str, event: Event) -> Task | Refused:
        """Let `event` happen to a task and return it as it is then, or why nothing changed. Raises: StorageError."""

    async def recover(self) -> int:
        """End the tasks whose owner is gone as `failed`; return how many. Raises: StorageError."""

    async def purge(self) -> int:
        """Forget the tasks that have expired; return how many. Raises: StorageError."""

    async def count(self) -> Mapping[State, int]:
        """Return how many tasks there are in each state. Raises: StorageError."""

    async def watch(
        self, notice: Callable[[Task], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Call `notice` with every task that changes from now on, without its outcome, until cancelled.

        `notice` must not block. Started when nothing is missed any more. Raises: StorageError.
        """


class RateLimits(Protocol):
    """How often each share has done what it may do at a rate, whichever replica it came to."""

    async def take(self, share: str, rates: Mapping[str, Rate]) -> dict[str, Taken]:
        """Attempt once what all of `rates` bound, each by its name; return what came of each.

        It counts under all of them or, when one refuses, under none. Two attempts at once are one after the other.
        A store that is away is decided without. Raises nothing. Cancellation: it may count.
        """


class Claim(NamedTuple):
    """One wish to run what a key stands for."""

    id: str
    """Names the key of its principal; no two principals have one in common."""
    share: str
    """Whose room it takes."""
    digest: str
    """Of what is to be run."""
    token: str
    """Names this claim among those of its process: one that is made again after an unknown outcome is the same."""


class New(NamedTuple):
    """The claimant has the key and runs it; `holder` is what it shows at the end."""

    holder: str


class Busy(NamedTuple):
    """A process that lives is running it."""

    holder: str


class Mismatch(NamedTuple):
    """The key stands for something else."""


class Kept(NamedTuple):
    """It has run, and this came of it."""

    outcome: bytes


Begun = New | Busy | Mismatch | Kept


class Idempotency(Protocol):
    """What keys stand for: at most one run at a time, and its outcome afterwards.

    A key belongs to a holder, a claim of a process. It is free again when that process is gone, never by time alone
    while a run may last; an owner that is only slow is not gone. What `finish` has taken is as durable as the backend
    promises. Each change is whole or absent, also when its caller is cancelled.
    """

    async def begin(self, claim: Claim, room: Room, hold_s: float) -> Begun:
        """Claim a key for at most `hold_s`, longer than any run. Raises: NoRoom; StorageError."""

    async def finish(self, claim: Claim, holder: str, outcome: bytes, ttl_s: float) -> bool:
        """Keep the outcome for `ttl_s`; False when the key is somebody else's by now. Raises: StorageError."""

    async def release(self, claim: Claim, holder: str) -> None:
        """Make a key free as if it had not been claimed, if `holder` has it still. Raises: StorageError."""

    async def purge(self) -> int:
        """Forget what has expired; return how many keys are kept now. Raises: StorageError."""


class SessionStore(Protocol):
    """The records of sessions. What `create`, `replace` and `remove` have done is there for every process at once."""

    @property
    def replies(self) -> Replies:
        """What is left of their replies; it ends with its session, however that ends."""

    async def create(self, record: SessionRecord, use: Use, room: SessionRoom) -> list[str]:
        """Store a new session; return the keys of those that gave way to it, `room.others` among them.

        Nothing has changed when it raises. Raises: NoSessionRoom; StorageError.
        """

    async def get(self, key: str) -> SessionRecord | None:
        """Return a session as it is stored now; None for an unknown, removed or expired one. Raises: StorageError."""

    async def replace(self, record: SessionRecord) -> SessionRecord | None:
        """Store a changed record if the stored one's `rev` is one less; its times are left alone.

        Returns what is stored then: another record when somebody else has changed it, None when it is gone.
        Raises: StorageError.
        """

    async def renew(self, uses: Mapping[str, Use]) -> set[str]:
        """Take down that sessions were used; return the keys of those that are gone. Raises: StorageError."""

    async def remove(self, keys: Collection[str]) -> None:
        """Forget sessions for good; unknown ones are no error. Raises: StorageError."""

    async def purge(self) -> int:
        """Forget the sessions that have expired; return how many. Raises: StorageError."""

    async def count(self) -> int:
        """Return how many sessions are kept. Raises: StorageError."""


MAX_VALUE_BYTES: Final = 1 << 20
"""Of what a cache shares; a longer value is loaded by each replica. At 1 GB/s it takes a millisecond."""


class Place(NamedTuple):
    """Where a value stands in a cache."""

    name: str
    """Unique, whoever sees the value included."""
    about: str
    """The normal form of the URI that it depends on: a change of that ends it."""


class Found(NamedTuple):
    """A value that may be used for `left_s` more; loading it took `load_s`."""

    value: bytes
    left_s: float
    load_s: float


class Turn(NamedTuple):
    """The caller loads the value, and others wait for it: it ends with `keep` or `release`, in any case.

    `found` is what may be used meanwhile: the load is one before the end of a value.
    """

    place: Place
    token: str
    state: str
    """Of what is loaded, when the load began."""
    found: Found | None = None


class Apart(NamedTuple):
    """The caller loads the value for itself: the store is away, or the value is none that is shared."""

    away: bool


Answer = Found | Turn | Apart


class CacheStore(Protocol):
    """Values that replicas share, each loaded by one of them.

    A value stands in a place until its end, or until a change of what it is about was told on the bus; one that was
    loaded before such a change is never kept after it. Whoever holds a turn and dies, or is stopped for longer than a
    claim lives, loses it. Nothing here raises a storage error: a store that is away is decided without.
    """

    @property
    def hearing(self) -> int | None:
        """Names the time since when every change elsewhere has been heard; None while one may be missed.

        What a replica keeps for itself is good only in the time that it was kept in.
        """

    async def ask(self, place: Place, early: float) -> Answer:
        """Return the value, waiting while somebody else loads it, or whose turn it is.

        A value whose end is nearer than `early` times what its load took is loaded again by one who asks. The wait is
        bounded by the caller. Cancellation: safe, no turn stays behind for longer than a message takes.
        """

    def keep(self, turn: Turn, value: bytes | None, *, load_s: float, ttl_s: float) -> None:
        """End a turn with its value, which is sent soon; None for one that cannot be shared. Not a checkpoint."""

    def release(self, turn: Turn) -> None:
        """End a turn without a value; nothing for one that has ended. Not a checkpoint."""

    async def find(self, names: Sequence[str]) -> dict[str, bytes]:
        """Return those of some vectors that are kept. Cancellation: safe."""

    def put(self, values: Mapping[str, bytes]) -> None:
        """Keep vectors, which are sent soon. Not a checkpoint."""
