"""Streams that are read on another server than the one that writes them: two servers in memory, on one shelf each of
sessions and inboxes; a reader is what a GET is, without HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from mcpd.config import Limits
from mcpd.errors import Overloaded, StoreUnavailable
from mcpd.messages.kept_replies import BEHIND, KEEP_REPLIES_S, MAX_KEPT_BYTES, RETRY_S
from mcpd.messages.lending import GONE_S
from mcpd.messages.pulls import MAX_BATCH_BYTES
from mcpd.messages.remote_streams import ANSWER_S, BUSY_S, OUTAGE_S, UnknownStream
from mcpd.messages.resumption import Resumption
from mcpd.messages.session import Session
from mcpd.messages.stream_names import reply_name
from mcpd.messages.streams import EventStream
from mcpd.storage.documents import StoreUnreachable
from mcpd.storage.memory.inbox import InboxShelf, MemoryInbox
from mcpd.storage.memory.replies import MemoryReplies
from mcpd.storage.memory.sessions import MemorySessions, SessionShelf
from mcpd.storage.replies import MAX_REPLY_BYTES
from mcpd.wire.call import Principal
from mcpd.wire.session import SessionState
from tests.messages.test_shared_sessions import PARAMS, clock, server

ADA = Principal("ada", frozenset())
WAIT_S = 100.0
LONGEST_S = 2_000.0
"""No test lets as much time pass."""
ANSWER = b'{"jsonrpc":"2.0","id":7,"result":{}}'


async def until(met: Callable[[], object]) -> None:
    """Let some of the clock's time pass until `met()`."""
    with trio.fail_after(WAIT_S):
        while not met():  # noqa: ASYNC110 - what is awaited rings no bell
            await trio.sleep(0.02)


class LossyInbox(MemoryInbox):
    """An inbox whose store can be away, and that can lose or delay what it sends."""

    away = False
    losing = 0
    largest_bytes = 0
    late: list[tuple[str, bytes]] | None = None
    """What is sent to all and has not arrived yet; None: it arrives at once."""

    async def send_all(self, topic: str, body: bytes) -> int:
        if self.late is None:
            return await super().send_all(topic, body)
        self.late.append((topic, body))
        await trio.lowlevel.checkpoint()
        return len(self._shelf.living) - 1

    async def arrive(self) -> None:
        """Have arrive what is late."""
        late, self.late = self.late or [], None
        for topic, body in late:
            await super().send_all(topic, body)

    async def send(self, to: str, topic: str, body: bytes) -> bool:
        self.largest_bytes = max(self.largest_bytes, len(body))
        if self.away:
            await trio.lowlevel.checkpoint()
            raise StoreUnreachable("away")
        if self.losing > 0:
            self.losing -= 1
            return True
        return await super().send(to, topic, body)


class AwayReplies(MemoryReplies):
    """A store of replies that can be away."""

    away = False

    async def keep(self, session: str, stream: str, data: bytes, ttl_s: float) -> bytes | None:
        if self.away:
            raise StoreUnreachable("away")
        return await super().keep(session, stream, data, ttl_s)

    async def get(self, session: str, stream: str) -> bytes | None:
        if self.away:
            raise StoreUnreachable("away")
        return await super().get(session, stream)


class Site:
    """Servers that share sessions and inboxes; the first one has a session with a stream."""

    def __init__(self, folder: Path, nursery: trio.Nursery, count: int = 3) -> None:
        self.shelf, self.inboxes = SessionShelf(clock=clock), InboxShelf()
        self.boxes = [LossyInbox(self.inboxes) for _ in range(count)]
        self.stores = [MemorySessions(self.shelf) for _ in range(count)]
        self.replies = AwayReplies(self.shelf)
        for store in self.stores:
            store.replies = self.replies
        self.parts = [server(folder, store, inbox=box) for store, box in zip(self.stores, self.boxes, strict=True)]
        self.resumptions = [Resumption(one.sessions, max_remote=2, nursery=nursery, clock=clock) for one in self.parts]

    async def begin(self, request_id: str | int | None = 7) -> tuple[Session, EventStream]:
        """Begin a session on the first server, and a reply that has been read up to its first event."""
        sessions = self.parts[0].sessions
        session = sessions.begin(SessionState(PARAMS), ADA)
        await sessions.keep(session)
        stream = sessions.open_stream(session, reply_name(sessions.address, 1, request_id))
        stream.named = True
        stream.append(b"one")
        return session, stream

    async def seen_on(self, number: int, session: Session) -> Session:
        """Return the session as another server knows it."""
        found = await self.parts[number].sessions.find(session.key, ADA)
        assert found is not None
        return found


@asynccontextmanager
async def site_of(folder: Path) -> AsyncIterator[Site]:
    with trio.fail_after(LONGEST_S):
        await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as nursery:
            yield Site(folder, nursery)
            nursery.cancel_scope.cancel()


class Client:
    """What one GET reads. `gate` holds it up before each event; `ended` is set when its stream has."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.numbers: list[int] = []
        self.gate = trio.Event()
        self.gate.set()
        self.begun, self.ended = trio.Event(), trio.Event()
        self.scope = trio.CancelScope()
        self.retry_ms: int | None = None
        self.stream: EventStream | None = None

    async def get(self, site: Site, number: int, session: Session, event_id: str) -> None:
        """Do what a GET does on server `number`, until the stream ends or somebody else reads it."""
        there = await site.seen_on(number, session)
        self.scope = trio.CancelScope()
        with self.scope:
            async with site.resumptions[number].stream(there, event_id) as (stream, after):
                await self._follow(stream, after)
                site.parts[number].sessions.kept.want(stream)
        self.ended.set()

    async def _follow(self, stream: EventStream, after: int) -> None:
        async with trio.open_nursery() as nursery:
            stream.take_over(self)
            self.stream = stream
            self.begun.set()
            nursery.start_soon(stream.run)
            try:
                await self._read(stream, after)
            finally:
                stream.leave(self)
            nursery.cancel_scope.cancel()

    async def _read(self, stream: EventStream, after: int) -> None:
        while stream.reader is self:
            for after, data in stream.since(after):  # noqa: B020, PLR1704 - as the reader of HTTP does
                await self.gate.wait()
                self.got.append(data)
                self.numbers.append(after)
                stream.sent(after)
            if stream.finished or stream.retry_ms is not None:
                break
            await stream.wait_news()
        self.retry_ms = stream.retry_ms
        stream.fetched = stream.finished and stream.reader is self


async def test_a_stream_is_read_elsewhere_from_any_place_and_live_to_its_end(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """RSM-2, STR-3: every event once, also when what the servers say to each other is lost."""
    async with site_of(tmp_path) as site, trio.open_nursery() as nursery:
        session, stream = await site.begin()
        stream.append(b"two")
        client = Client()
        site.boxes[1].losing = 1
        nursery.start_soon(client.get, site, 1, session, stream.event_id(1))
        await until(lambda: client.got == [b"two"])
        assert stream.attended
        for box in (site.boxes[0], site.boxes[1], site.boxes[0]):
            box.losing = 1
            stream.append(b"more")
            await trio.sleep(3 * ANSWER_S)
        stream.append(ANSWER, final=True)
        stream.finish()
        await client.ended.wait()
        assert client.got == [b"two", b"more", b"more", b"more", ANSWER]
        assert client.numbers == [2, 3, 4, 5, 6]
        await until(lambda: not stream.attended)
        assert stream.fetched
        assert await site.parts[0].sessions.kept.find(session.key, stream.name) is None, "nobody needs it"


async def test_the_newest_reader_has_the_stream_wherever_it_is(tmp_path: Path, autojump_clock: MockClock) -> None:
    """RSM-2: the others end, at once."""
    async with site_of(tmp_path) as site, trio.open_nursery() as nursery:
        session, stream = await site.begin()
        clients = [Client() for _ in range(4)]
        for client, number in zip(clients, (1, 2, 1, 0), strict=True):
            nursery.start_soon(client.get, site, number, session, stream.event_id(0))
            await until(partial(getattr, client, "got"))
            await trio.sleep(1)
            earlier = clients[: clients.index(client)]
            assert [one.ended.is_set() for one in earlier] == [True] * len(earlier)
        stream.append(ANSWER, final=True)
        stream.finish()
        await clients[-1].ended.wait()
        assert [client.got for client in clients] == [[b"one"]] * 3 + [[b"one", ANSWER]]


async def test_a_reader_that_was_replaced_takes_nothing_back(tmp_path: Path, autojump_clock: MockClock) -> None:
    """RSM-2: nor one whose owner has long forgotten it, while somebody else reads."""
    async with site_of(tmp_path) as site, trio.open_nursery() as nursery:
        session, stream = await site.begin()
        old, new = Client(), Client()
        nursery.start_soon(old.get, site, 1, session, stream.event_id(0))
        await until(lambda: old.got)
        site.boxes[1].away = True
        await trio.sleep(GONE_S + 5)
        assert not stream.attended, "it was not heard of for too long"
        nursery.start_soon(new.get, site, 2, session, stream.event_id(0))
        await until(lambda: new.got)
        site.boxes[1].away = False
        await old.ended.wait()
        stream.append(b"two")
        await until(lambda: len(new.got) == 2)
        assert old.got == [b"one"]
        new.scope.cancel()


async def test_a_reader_whose_store_was_away_for_a_while_goes_on(tmp_path: Path, autojump_clock: MockClock) -> None:
    """RSM-2: and it is sent away, to come back, when that takes too long (RSM-4)."""
    async with site_of(tmp_path) as site, trio.open_nursery() as nursery:
        session, stream = await site.begin()
        client = Client()
        nursery.start_soon(client.get, site, 1, session, stream.event_id(1))
        await client.begun.wait()
        for box in site.boxes:
            box.away = True
        await trio.sleep(OUTAGE_S - 5)
        stream.append(b"two")
        for box in site.boxes:
            box.away = False
        await until(lambda: client.got == [b"two"])
        for box in site.boxes:
            box.away = True
        await client.ended.wait()
        assert client.retry_ms is not None
        with pytest.raises(StoreUnavailable):
            await client.get(site, 1, session, stream.event_id(2))


async def test_a_long_event_comes_in_pieces_and_is_whole(tmp_path: Path, autojump_clock: MockClock) -> None:
    """SEC-4."""
    long = bytes(range(256)) * (MAX_BATCH_BYTES // 256) * 2 + b"end"
    async with site_of(tmp_path) as site, trio.open_nursery() as nursery:
        session, stream = await site.begin()
        stream.append(long, final=True)
        stream.append(b"small")
        stream.append(long[:MAX_BATCH_BYTES], final=True)
        client = Client()
        nursery.start_soon(client.get, site, 1, session, stream.event_id(1))
        await until(lambda: len(client.got) == 3)
        assert client.got == [long, b"small", long[:MAX_BATCH_BYTES]]
        assert site.boxes[0].largest_bytes < MAX_BATCH_BYTES + 1_000
        client.scope.cancel()


async def test_a_slow_reader_holds_a_batch_and_its_owner_what_a_stream_may(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """SEC-4, RSM-5: notifications go, the oldest first, and the answer never; it counts as a reader all the while."""
    said = b"x" * (MAX_BATCH_BYTES // 4)
    async with site_of(tmp_path) as site, trio.open_nursery() as nursery:
        session, stream = await site.begin()
        client = Client()
        nursery.start_soon(client.get, site, 1, session, stream.event_id(0))
        await until(lambda: client.got)
        client.gate = trio.Event()
        for _ in range(100):
            stream.append(said)
            await trio.sleep(BUSY_S)
        assert client.stream is not None
        assert client.stream.held_bytes <= MAX_BATCH_BYTES
        assert stream.held_bytes <= Limits().max_stream_bytes
        assert stream.attended
        stream.append(ANSWER, final=True)
        stream.finish()
        client.gate.set()
        await client.ended.wait()
        assert client.got[-1] == ANSWER
        assert 10 < len(client.got) < 100
        assert client.numbers == sorted(set(client.numbers))


async def test_an_unread_end_outlives_its_server(tmp_path: Path, autojump_clock: MockClock) -> None:
    """STR-3, RSM-5: for a while; what was read before does not come again."""
    async with site_of(tmp_path) as site:
        session, stream = await site.begin()
        stream.append(b"two")
        stream.append(ANSWER, final=True)
        stream.finish()
        site.parts[0].sessions.kept.want(stream)
        await until(lambda: stream.name in site.shelf.replies.get(session.key, {}))
        await site.boxes[0].leave()
        for number, after, expected in ((1, 0, [b"one", b"two", ANSWER]), (2, 2, [ANSWER]), (1, 3, [])):
            client = Client()
            await client.get(site, number, session, stream.event_id(after))
            assert client.got == expected
        await trio.sleep(KEEP_REPLIES_S)
        client = Client()
        await client.get(site, 1, session, stream.event_id(2))
        assert "owner_lost" in str(client.got)


async def test_a_call_that_died_with_its_server_is_answered_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """STR-3, RPC-12: with an error that says that it can be sent again, on any server, and so it stays."""
    for request_id in (7, -1, "seven", "", "ü" * 32):
        async with site_of(tmp_path) as site, trio.open_nursery() as nursery:
            session, stream = await site.begin(request_id)
            client = Client()
            nursery.start_soon(client.get, site, 1, session, stream.event_id(1))
            await client.begun.wait()
            await site.boxes[0].leave()
            with trio.fail_after(2 * ANSWER_S):
                await client.ended.wait()
            error = msgspec.json.decode(client.got[0])
            assert (error["id"], error["error"]["data"]["retryable"], client.numbers) == (request_id, True, [BEHIND])
            stream.append(ANSWER, final=True)
            stream.finish()
            sessions = site.parts[0].sessions
            await trio.sleep(2 * GONE_S)
            await sessions.flush()
            site.inboxes.living[sessions.address] = site.boxes[0]
            again = Client()
            for number in range(3):
                again = Client()
                await again.get(site, number, session, stream.event_id(1))
                assert again.got == client.got, "a request has one answer"
            await again.get(site, 2, session, stream.event_id(BEHIND))
            assert again.got == client.got, "and it does not come twice"


async def test_what_nobody_can_answer_is_unknown(tmp_path: Path, autojump_clock: MockClock) -> None:
    """RSM-2, RSM-5: of a batch, of no stream, of one that is gone, of another session, of events no longer kept."""
    async with site_of(tmp_path) as site:
        session, stream = await site.begin(request_id=None)
        other, _ = await site.begin()
        address = site.boxes[0].address
        wrong = ["", "x", stream.name, f"{stream.name}-", f"{stream.name}--1", f"{address}.9-1", f"{address}.s.i7-1"]
        for event_id in (*wrong, stream.event_id(2), f"{address}.1.i8-1"):
            for number in (0, 1):
                with pytest.raises(UnknownStream):
                    await Client().get(site, number, session, event_id)
        with pytest.raises(UnknownStream):
            await Client().get(site, 1, other, f"{stream.name}-1")
        assert not stream.attended
        for _ in range(Limits().max_stream_events + 5):
            stream.append(b"x")
        with pytest.raises(UnknownStream):
            await Client().get(site, 1, session, stream.event_id(1))
        await site.boxes[0].leave()
        with pytest.raises(UnknownStream):
            await Client().get(site, 1, session, stream.event_id(1))


async def test_an_event_of_a_standalone_stream_leads_to_the_one_here(tmp_path: Path, autojump_clock: MockClock) -> None:
    """STR-4."""
    async with site_of(tmp_path) as site:
        session, _ = await site.begin()
        there = await site.seen_on(1, session)
        async with site.resumptions[1].stream(there, f"{site.boxes[0].address}.s-4") as (stream, after):
            assert (stream.name, after) == (f"{site.boxes[1].address}.s", 0)


async def test_a_client_that_is_sent_away_comes_back_to_any_server(tmp_path: Path, autojump_clock: MockClock) -> None:
    """RSM-4."""
    async with site_of(tmp_path) as site, trio.open_nursery() as nursery:
        session, stream = await site.begin()
        client = Client()
        nursery.start_soon(client.get, site, 1, session, stream.event_id(1))
        await client.begun.wait()
        stream.append(b"two")
        stream.release(500)
        await client.ended.wait()
        assert (client.got, client.retry_ms) == ([b"two"], 500)
        await until(lambda: not stream.attended)
        again = Client()
        nursery.start_soon(again.get, site, 2, session, stream.event_id(2))
        await again.begun.wait()
        stream.append(ANSWER, final=True)
        stream.finish()
        await again.ended.wait()
        assert (again.got, again.retry_ms) == ([ANSWER], None)


async def test_a_session_whose_stream_is_read_here_is_in_use_and_its_end_ends_that(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """SES-4, SES-6, SEC-4: and it reads a bounded number of them."""
    async with site_of(tmp_path) as site, trio.open_nursery() as nursery:
        session, stream = await site.begin()
        there = await site.seen_on(1, session)
        client, second = Client(), Client()
        nursery.start_soon(client.get, site, 1, session, stream.event_id(1))
        await client.begun.wait()
        assert there.in_use
        another = site.parts[0].sessions.open_stream(session, reply_name(site.boxes[0].address, 2, 8))
        nursery.start_soon(second.get, site, 1, session, another.event_id(0))
        await second.begun.wait()
        with pytest.raises(Overloaded):
            await Client().get(site, 1, session, another.event_id(0))
        await site.parts[1].sessions.end(there)
        await client.ended.wait()
        await second.ended.wait()
        assert (client.got, there.in_use) == ([], False)


async def test_only_what_a_client_can_come_back_for_is_kept(tmp_path: Path, autojump_clock: MockClock) -> None:
    """RSM-5, law 8: nor what it has been sent, nor more than there is room for."""
    async with site_of(tmp_path) as site:
        session, _ = await site.begin()
        sessions, kept = site.parts[0].sessions, site.shelf.replies

        def ended(number: int, *answers: bytes, **marks: bool) -> EventStream:
            stream = sessions.open_stream(session, reply_name(sessions.address, number, number))
            stream.named = True
            for answer in answers:
                stream.append(answer, final=True)
            stream.finish()
            for name, value in marks.items():
                setattr(stream, name, value)
            sessions.kept.want(stream)
            return stream

        ended(2, ANSWER, named=False)
        ended(3, ANSWER, fetched=True)
        ended(4)
        ended(5, b"x" * MAX_REPLY_BYTES)
        await sessions.flush()
        assert kept.get(session.key, {}) == {}
        wanted = [ended(number, b"x" * (MAX_REPLY_BYTES // 2 - 999)).name for number in range(6, 10)]
        await sessions.flush()
        assert len(kept[session.key]) == 4 == len(wanted)
        name = ""
        for number in range(10, 60):
            name = ended(number, b"x" * (MAX_REPLY_BYTES // 2 - 999)).name
            sessions.drop_stream(session, name)
            await sessions.flush()
        assert name not in kept[session.key], "this process has had its share for now"
        await trio.sleep(KEEP_REPLIES_S + 1)
        name = ended(60, ANSWER).name
        await sessions.flush()
        assert name in kept[session.key]
        assert 2 * MAX_KEPT_BYTES > 50 * MAX_REPLY_BYTES // 2 > MAX_KEPT_BYTES


async def test_an_end_is_kept_once_the_store_is_back(tmp_path: Path, autojump_clock: MockClock) -> None:
    """STR-3: what is here is read here meanwhile, store or not."""
    async with site_of(tmp_path) as site:
        session, stream = await site.begin()
        stream.append(ANSWER, final=True)
        stream.finish()
        site.replies.away = True
        site.parts[0].sessions.kept.want(stream)
        await trio.sleep(5 * RETRY_S)
        client = Client()
        await client.get(site, 0, session, stream.event_id(1))
        assert client.got == [ANSWER]
        with pytest.raises(StoreUnavailable):
            await Client().get(site, 1, session, stream.event_id(1))
        stream.fetched = False
        site.replies.away = False
        await until(lambda: stream.name in site.shelf.replies.get(session.key, {}))


async def test_a_late_word_of_an_older_reader_elsewhere_ends_no_newer_one(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """STR-6: of two standalone readers the newer one stays, in whatever order their processes hear of each other."""
    async with site_of(tmp_path) as site:
        session, _ = await site.begin()
        there = await site.seen_on(1, session)
        readers = []
        for number, one in enumerate((session, there)):
            site.boxes[number].late = []
            async with site.resumptions[number].stream(one, None) as (stream, _):
                stream.take_over(number)
                readers.append(stream)
            await trio.sleep(0.01)
        await site.boxes[1].arrive()
        assert [stream.reader for stream in readers] == [None, 1]
        await site.boxes[0].arrive()
        assert [stream.reader for stream in readers] == [None, 1]
