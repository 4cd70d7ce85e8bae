"""What every inbox does: messages to one or to all, in order, once each, and only to who lives."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from mcpd.storage.inbox import ADDRESS, InboxFull
from tests.contract.inbox_backends import LEASE_S, ROOM, TOPIC, Neighbours, Process, Store, until


async def nobody(one: Process, address: str) -> bool:
    """Tell whether `one` finds nobody at an address, on a topic that nobody listens to."""
    return not await one.inbox.send(address, "anybody there", b"")


async def test_a_message_is_heard_by_the_one_it_is_sent_to_and_says_who_sent_it(neighbours: Neighbours) -> None:
    one, two, three = [await neighbours.join() for _ in range(3)]
    assert await one.tell(two, b"\x00 a body \xff")
    await two.hears(b"\x00 a body \xff")
    assert two.heard[0].sender == one.inbox.address
    assert three.heard == one.heard == []


async def test_addresses_are_of_one_form_and_differ(neighbours: Neighbours) -> None:
    addresses = [(await neighbours.join()).inbox.address for _ in range(3)]
    assert len(set(addresses)) == 3
    assert all(re.fullmatch(ADDRESS, address) for address in addresses)


async def test_messages_of_one_sender_are_heard_in_the_order_in_which_they_were_sent(neighbours: Neighbours) -> None:
    one, two = [await neighbours.join() for _ in range(2)]
    bodies = [b"%d" % number for number in range(90)]
    for body in bodies:
        assert await one.tell(two, body)
    await two.hears(*bodies)


async def test_what_is_for_all_is_heard_by_all_others_and_not_by_its_sender(neighbours: Neighbours) -> None:
    one, two, three = [await neighbours.join() for _ in range(3)]
    assert await one.inbox.send_all(TOPIC, b"for all") == 2
    await two.hears(b"for all")
    await three.hears(b"for all")
    assert one.heard == []


async def test_who_is_alone_tells_nobody(neighbours: Neighbours) -> None:
    one = await neighbours.join()
    assert await one.inbox.send_all(TOPIC, b"for nobody") == 0


async def test_what_a_process_sends_to_itself_has_been_heard_when_it_is_sent(neighbours: Neighbours) -> None:
    one = await neighbours.join()
    assert await one.tell(one, b"to myself")
    assert one.bodies == [b"to myself"]


async def test_nobody_is_told_at_an_address_where_nobody_lives(neighbours: Neighbours) -> None:
    one, two = [await neighbours.join() for _ in range(2)]
    assert not await one.inbox.send("no address at all", TOPIC, b"")
    await until(lambda: nobody(one, "0" * 12))
    assert await one.tell(two, b"while it lives")
    await two.hears(b"while it lives")
    await neighbours.leave(two)
    assert not await one.tell(two, b"when it has gone")
    assert await one.inbox.send_all(TOPIC, b"when it has gone") == 0


async def test_a_process_that_died_is_told_nothing_after_a_while(neighbours: Neighbours) -> None:
    one, two, three = [await neighbours.join() for _ in range(3)]
    neighbours.kill(two)
    await until(lambda: nobody(one, two.inbox.address))
    assert await one.inbox.send_all(TOPIC, b"for the living") == 1
    await three.hears(b"for the living")


async def test_a_topic_that_nobody_listens_to_is_passed_over(neighbours: Neighbours) -> None:
    one, two = [await neighbours.join() for _ in range(2)]
    assert await one.inbox.send(two.inbox.address, "of a newer version", b"")
    assert await one.tell(two, b"known")
    await two.hears(b"known")


async def test_a_receiver_that_fails_is_told_of_the_next_message(neighbours: Neighbours) -> None:
    one, two = [await neighbours.join() for _ in range(2)]
    two.inbox.on("wrong", lambda message: [][len(message.body)])
    assert await one.inbox.send(two.inbox.address, "wrong", b"")
    assert await one.tell(two, b"right")
    await two.hears(b"right")


async def test_what_is_sent_to_oneself_while_one_cannot_be_found_is_heard(neighbours: Neighbours) -> None:
    one = await neighbours.join()
    await neighbours.leave(one)
    assert await one.tell(one, b"still here")


@pytest.mark.parametrize("size", [0, 1, 70_000, 150_000])
async def test_messages_of_any_size_arrive_whole(neighbours: Neighbours, size: int) -> None:
    one, two = [await neighbours.join() for _ in range(2)]
    body = bytes(range(256)) * (size // 256) + b"z" * (size % 256)
    assert await one.tell(two, body)
    assert await one.inbox.send_all(TOPIC, b"the next") == 1
    await two.hears(body, b"the next")


async def test_messages_of_many_senders_at_once_are_heard_once_each_and_in_order_of_each(
    neighbours: Neighbours,
) -> None:
    *senders, reader = [await neighbours.join() for _ in range(4)]

    async def send_all(sender: Process) -> None:
        for number in range(30):
            assert await sender.tell(reader, b"%d" % number)

    async with trio.open_nursery() as nursery:
        for sender in senders:
            nursery.start_soon(send_all, sender)
    for sender in senders:
        await sender.tell(reader, b"done")
    while reader.bodies.count(b"done") < len(senders):  # noqa: ASYNC110
        await trio.sleep(0.01)
    for sender in senders:
        heard = [message.body for message in reader.heard if message.sender == sender.inbox.address]
        assert heard == [*(b"%d" % number for number in range(30)), b"done"]


async def test_nothing_is_lost_or_told_twice_when_connections_are_cut_all_the_time(neighbours: Neighbours) -> None:
    one, two = [await neighbours.join() for _ in range(2)]
    bodies = [b"%d" % number for number in range(60)]
    for number, body in enumerate(bodies):
        if number % 12 == 0:
            await neighbours.store.cut()
        assert await one.tell(two, body)
    await two.hears(*bodies)


async def test_a_store_that_was_restarted_has_what_was_sent_and_goes_on(neighbours: Neighbours) -> None:
    one, two = [await neighbours.join() for _ in range(2)]
    assert await one.tell(two, b"before")
    await neighbours.store.restart()
    assert await one.tell(two, b"after")
    await two.hears(b"before", b"after")


async def test_a_store_that_lost_everything_carries_what_is_sent_then(neighbours: Neighbours) -> None:
    """Nobody that lives is taken for dead, and nothing hangs."""
    one, two = [await neighbours.join() for _ in range(2)]
    for number in range(3):
        await neighbours.store.forget()
        assert await one.tell(two, b"%d" % number)
        await two.hears_at_last(b"%d" % number)

    async def all_are_told() -> bool:
        return await one.inbox.send_all("anybody there", b"") == 1

    await until(all_are_told)


async def test_a_send_that_is_cancelled_is_heard_once_or_not_at_all_and_the_next_ones_are(
    neighbours: Neighbours,
) -> None:
    one, two = [await neighbours.join() for _ in range(2)]
    for number in range(1, 40):
        with trio.move_on_after(number / 20_000):
            await one.tell(two, b"%d" % number)
    assert await one.tell(two, b"the last")
    await two.hears_at_last(b"the last")
    numbers = [int(body) for body in two.bodies[:-1]]
    assert numbers == sorted(set(numbers))
    assert two.bodies[-1] == b"the last"


async def fill(sender: Process, reader: Process, body: bytes) -> int:
    """Send until the reader's inbox is full; return how many it took."""
    for taken in range(ROOM.max_items + 1):
        try:
            assert await sender.tell(reader, body)
        except InboxFull:
            return taken
    raise AssertionError("it is never full")


async def test_an_inbox_that_is_not_read_takes_so_many_messages_and_the_others_go_on(stored: Neighbours) -> None:
    """Law 8."""
    one, two, three = [await stored.join() for _ in range(3)]
    await stored.stop(two)
    assert await fill(one, two, b"") == ROOM.max_items
    with pytest.raises(InboxFull):
        await one.inbox.send_all(TOPIC, b"for all")
    await three.hears(b"for all")
    assert two.heard == []


async def test_an_inbox_that_is_not_read_takes_so_many_bytes(stored: Neighbours) -> None:
    """Law 8."""
    one, two = [await stored.join() for _ in range(2)]
    await stored.stop(two)
    size = ROOM.max_bytes // 4
    assert await fill(one, two, b"x" * size) == 4
    with pytest.raises(InboxFull):
        await one.tell(two, b"y")


async def test_a_message_that_is_larger_than_an_inbox_is_refused(stored: Neighbours) -> None:
    one, two = [await stored.join() for _ in range(2)]
    with pytest.raises(InboxFull):
        await one.tell(two, b"x" * (ROOM.max_bytes + 1))
    assert await one.tell(two, b"fits")
    await two.hears(b"fits")


class Child:
    """A process of its own."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.address = ""
        self.heard: list[bytes] = []

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        rest = b""
        assert self.process.stdout is not None
        async for data in self.process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if not self.address:
                    self.address = line.decode()
                    task_status.started()
                else:
                    self.heard.append(bytes.fromhex(line.decode()))

    async def hears_at_last(self, body: bytes) -> None:
        while body not in self.heard:  # noqa: ASYNC110
            await trio.sleep(0.01)


@asynccontextmanager
async def child_of(store: Store) -> AsyncIterator[Child]:
    words = [sys.executable, "-m", "tests.contract.inbox_child", *store.child()]
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(words, stdout=subprocess.PIPE)
        child = Child(process)
        try:
            await nursery.start(child.run)
            yield child
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            nursery.cancel_scope.cancel()


async def test_a_process_that_was_stopped_for_longer_than_its_lease_hears_what_it_was_promised(
    stored: Neighbours,
) -> None:
    """It has its address again, and is found there."""
    one = await stored.join()
    async with child_of(stored.store) as child:
        assert await one.inbox.send(child.address, TOPIC, b"before")
        await child.hears_at_last(b"before")
        child.process.send_signal(signal.SIGSTOP)
        promised, number = [b"before"], 0
        with trio.move_on_after(3 * LEASE_S):
            while True:
                number += 1
                if await one.inbox.send(child.address, TOPIC, b"%d" % number):
                    promised.append(b"%d" % number)
                await trio.sleep(LEASE_S / 20)
        child.process.send_signal(signal.SIGCONT)

        async def back() -> bool:
            return await one.inbox.send(child.address, TOPIC, b"back again")

        await until(back)
        await child.hears_at_last(b"back again")
        heard = [body for body in child.heard if body in promised]
        assert heard == promised


async def test_a_process_that_was_killed_is_found_dead(stored: Neighbours) -> None:
    one = await stored.join()
    async with child_of(stored.store) as child:
        assert not await nobody(one, child.address)
        child.process.kill()
        await until(lambda: nobody(one, child.address))


async def test_an_inbox_that_is_read_takes_any_number_of_messages(stored: Neighbours) -> None:
    one, two = [await stored.join() for _ in range(2)]
    bodies = [b"%d" % number for number in range(ROOM.max_items + 50)]

    async def taken(body: bytes) -> bool:
        try:
            return await one.tell(two, body)
        except InboxFull:
            return False

    for body in bodies:
        await until(partial(taken, body))
    await two.hears(*bodies)
