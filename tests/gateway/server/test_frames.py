"""Frames of a WebSocket, cut apart: the plain ones are what wsproto would make of them, the others reach it whole."""

from __future__ import annotations

import random

import pytest
import wsproto.events as frames
from wsproto.connection import Connection, ConnectionType

from mcpd.gateway.server.frames import Frames, text_frame

MAX_BYTES = 200_000
SIZES = (0, 1, 3, 4, 125, 126, 127, 1000, 65_535, 65_536)
MASK = b"\x12\x00\xff\x7a"


def masked(first: int, payload: bytes, *, mask: bytes = MASK) -> bytes:
    """One frame of a client, with the shortest form of its length."""
    size = len(payload)
    length = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2) if size < 65536 else b"\x7f" + size.to_bytes(8)
    head = bytes([first, length[0] | 0x80]) + length[1:]
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def taken(came: Frames) -> list[str | bytes]:
    """All that can be taken now."""
    found: list[str | bytes] = []
    while True:
        text = came.text()
        one = came.part() if text is None else text
        if text is None and not one:
            return found
        found.append(one)


@pytest.mark.parametrize("size", SIZES)
def test_a_text_is_what_wsproto_makes_of_its_frame(size: int) -> None:
    text = ("aé€😀" * size)[:size]
    while len(text.encode()) > size:
        text = text[:-1]
    text += "x" * (size - len(text.encode()))
    parser, came = Connection(ConnectionType.SERVER), Frames(MAX_BYTES)
    parser.receive_data(masked(0x81, text.encode()))
    whole = [event for event in parser.events() if isinstance(event, frames.TextMessage)]
    came.feed(masked(0x81, text.encode()))
    assert "".join(event.data for event in whole) == text
    assert came.text() == (text if size < 65_536 else None)


@pytest.mark.parametrize("seed", range(20))
def test_however_frames_come_no_byte_is_lost_and_each_part_belongs_to_one_frame(seed: int) -> None:
    chance = random.Random(seed)
    sent = [
        masked(chance.choice([0x81, 0x82, 0x89, 0x01, 0x80, 0xC1]), chance.randbytes(chance.choice(SIZES[:-1])))
        for _ in range(30)
    ]
    data, came, found, frame = b"".join(sent), Frames(MAX_BYTES), list[bytes](), b""
    while data:
        cut = chance.choice([1, 2, 5, 13, 500, 70_000])
        came.feed(data[:cut])
        data = data[cut:]
        for one in taken(came):
            frame += masked(0x81, one.encode()) if isinstance(one, str) else one
            if len(frame) == len(sent[len(found)]):
                found.append(frame)
                frame = b""
        assert came.unfinished or not frame
    assert found == sent
    assert not came.unfinished


@pytest.mark.parametrize(
    "frame",
    [
        b"\x81\x02hi",
        masked(0xC1, b"hi"),
        masked(0x82, b"hi"),
        masked(0x01, b"hi"),
        masked(0x88, b"\x03\xe8"),
        masked(0x81, b"\xff"),
        masked(0x81, b"x" * (MAX_BYTES + 1)),
        b"\x81\xfe\x00\x02" + MASK + b"hi",
        b"\x81\xff" + (2).to_bytes(8) + MASK + b"hi",
    ],
    ids=[
        "unmasked",
        "reserved bit",
        "binary",
        "fragment",
        "close",
        "no text",
        "too long",
        "length of 2",
        "length of 8",
    ],
)
def test_what_is_not_plainly_sound_is_left_to_the_general_parser_as_it_came(frame: bytes) -> None:
    came = Frames(MAX_BYTES)
    came.feed(frame + masked(0x81, b"next"))
    assert came.text() is None
    assert came.part() == frame
    assert came.text() == "next"


def test_a_message_that_is_too_long_is_not_taken_however_short_its_frame_is() -> None:
    came = Frames(10)
    came.feed(masked(0x81, b"x" * 11) + masked(0x81, b"x" * 10))
    assert came.text() is None
    assert came.part()
    assert came.text() == "x" * 10


@pytest.mark.parametrize("size", [*SIZES, 70_000])
def test_a_frame_of_ours_is_the_message(size: int) -> None:
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(text_frame("é" * size))
    parts = [event for event in client.events() if isinstance(event, frames.TextMessage)]
    assert "".join(part.data for part in parts) == "é" * size
    assert parts[-1].message_finished
