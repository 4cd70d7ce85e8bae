"""What every inbox does: messages to one or to all, in order, once each, and only to who lives."""

from __future__ import annotations

import re

from mcpd.storage.inbox import ADDRESS
from tests.contract.inbox_backends import TOPIC, Neighbours


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
    bodies = [b"%d" % number for number in range(300)]
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
    assert not await one.inbox.send("0" * 12, TOPIC, b"")
    assert await one.tell(two, b"while it lives")
    await neighbours.leave(two)
    assert not await one.tell(two, b"when it has gone")
    assert await one.inbox.send_all(TOPIC, b"when it has gone") == 0


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
