"""RESP3 as values: every kind of element, cut at every byte, nested, bounded, malformed."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpd.drivers.resp import ITEM_BYTES, MAX_DEPTH, ErrorReply, Parser, ProtocolError, Push, encode

ELEMENTS: list[tuple[bytes, Any]] = [
    (b"+OK\r\n", b"OK"),
    (b"+\r\n", b""),
    (b"-ERR no such thing\r\n", ErrorReply("ERR", "ERR no such thing")),
    (b"-LOADING\r\n", ErrorReply("LOADING", "LOADING")),
    (b":42\r\n", 42),
    (b":-7\r\n", -7),
    (b":+7\r\n", 7),
    (b"$0\r\n\r\n", b""),
    (b"$5\r\na\r\nbc\r\n", b"a\r\nbc"),
    (b"$4\r\n\r\n\r\n\r\n", b"\r\n\r\n"),
    (b"=7\r\ntxt:abc\r\n", b"abc"),
    (b"!9\r\nOOM it is\r\n", ErrorReply("OOM", "OOM it is")),
    (b",1.5\r\n", 1.5),
    (b",-inf\r\n", -math.inf),
    (b"#t\r\n", True),
    (b"#f\r\n", False),
    (b"_\r\n", None),
    (b"(3492890328409238509324850943850943825024385\r\n", 3492890328409238509324850943850943825024385),
    (b"*0\r\n", []),
    (b"*2\r\n:1\r\n*1\r\n$1\r\na\r\n", [1, [b"a"]]),
    (b"~2\r\n+a\r\n+b\r\n", [b"a", b"b"]),
    (b"%0\r\n", {}),
    (b"%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n_\r\n", {b"a": 1, b"b": [None]}),
    (b"|1\r\n+ttl\r\n:9\r\n:5\r\n", 5),
    (b"*2\r\n|1\r\n+a\r\n*1\r\n:3\r\n:1\r\n:2\r\n", [1, 2]),
    (b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n", Push(b"message", [b"c", b"x"])),
    (b"*3\r\n:1\r\n_\r\n-ERR in it\r\n", [1, None, ErrorReply("ERR", "ERR in it")]),
]


def in_pieces(data: bytes, size: int, parser: Parser | None = None) -> list[Any]:
    parser = parser or Parser()
    return [item for start in range(0, len(data), size) for item in parser.receive(data[start : start + size])]


@pytest.mark.parametrize(("data", "value"), ELEMENTS, ids=[repr(data) for data, _ in ELEMENTS])
def test_an_element_is_its_value_however_it_is_cut(data: bytes, value: Any) -> None:
    for size in range(1, len(data) + 1):
        parser = Parser()
        (found,) = in_pieces(data, size, parser)
        assert found == value
        assert type(found) is type(value)
        assert parser.idle


@pytest.mark.parametrize(("data", "value"), ELEMENTS, ids=[repr(data) for data, _ in ELEMENTS])
def test_nothing_is_given_out_before_its_last_byte(data: bytes, value: Any) -> None:
    for stop in range(len(data)):
        parser = Parser()
        assert parser.receive(data[:stop]) == []
        assert parser.idle == (stop == 0) or data.startswith(b"|"), "an attribute is forgotten once it is read"
        assert parser.receive(data[stop:]) == [value]


def test_elements_in_a_row_keep_their_order_at_every_cut() -> None:
    data = b"".join(data for data, _ in ELEMENTS)
    for size in range(1, len(data) + 1):
        assert in_pieces(data, size) == [value for _, value in ELEMENTS]


def test_a_push_is_lifted_out_of_whatever_it_stands_in() -> None:
    """Redis before 7.2 writes it into the array of an EXEC, and does not count it."""
    data = b"*2\r\n>3\r\n+message\r\n+c\r\n+x\r\n:1\r\n%1\r\n+k\r\n>1\r\n+invalidate\r\n_\r\n"
    for size in range(1, len(data) + 1):
        found = in_pieces(data, size)
        assert found == [Push(b"message", [b"c", b"x"]), Push(b"invalidate", []), [1, {b"k": None}]]


def written(value: Any) -> bytes:
    match value:
        case None:
            return b"_\r\n"
        case bool():
            return b"#t\r\n" if value else b"#f\r\n"
        case int():
            return b":%d\r\n" % value
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(value), value)
        case dict():
            return b"%%%d\r\n" % len(value) + b"".join(written(k) + written(v) for k, v in value.items())
        case _:
            return b"*%d\r\n" % len(value) + b"".join(map(written, value))


SCALARS = st.none() | st.booleans() | st.integers() | st.binary(max_size=40)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.binary(max_size=5), inner, max_size=4)
)


@given(st.lists(VALUES, max_size=5), st.integers(1, 60))
def test_what_is_written_is_read_back_in_any_pieces(values: list[Any], size: int) -> None:
    assert in_pieces(b"".join(map(written, values)), size) == values


@given(st.binary(max_size=200), st.integers(1, 20))
def test_any_bytes_are_read_the_same_in_any_pieces_or_refused(data: bytes, size: int) -> None:
    def read(step: int) -> list[Any] | str:
        try:
            return in_pieces(data, step)
        except ProtocolError:
            return "refused"

    assert repr(read(max(1, len(data)))) == repr(read(size))


@pytest.mark.parametrize(
    "data",
    [
        b"?\r\n", b"\r\n", b"$-1\r\n", b"$x\r\n", b"$1 \r\n", b"$?\r\n", b"*?\r\n", b"*-1\r\n",
        b"$99999999999999999999\r\n",
        b"$2\r\nabc\r\n", b"$3\r\nabcde", b":\r\n", b":1.5\r\n", b":1_0\r\n", b",x\r\n", b"#x\r\n", b"_x\r\n", b"(\r\n",
        b"=2\r\nab\r\n", b">0\r\n", b">1\r\n:1\r\n", b"%1\r\n*0\r\n:1\r\n", b"(" + b"9" * 5000 + b"\r\n",
    ],
)  # fmt: skip
def test_what_is_no_resp3_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Parser().receive(data)
    with pytest.raises(ProtocolError):
        in_pieces(data, 1)


def test_a_line_without_end_is_refused() -> None:
    parser = Parser()
    for _ in range(6):
        assert parser.receive(b"+" * 10_000) == []
    with pytest.raises(ProtocolError, match="line"):
        parser.receive(b"+" * 10_000)


def test_a_string_is_bounded_by_what_it_says_before_it_comes() -> None:
    with pytest.raises(ProtocolError, match="beyond the bound"):
        Parser(max_bulk_bytes=5000).receive(b"$5001\r\n")


def test_a_reply_is_bounded_with_all_that_is_in_it() -> None:
    parser = Parser(max_reply_bytes=20 * ITEM_BYTES)
    assert parser.receive(b"*10\r\n" + b":1\r\n" * 10) == [[1] * 10]
    assert parser.receive(b"*10\r\n" + b":1\r\n" * 10) == [[1] * 10], "each reply has the bound for itself"
    with pytest.raises(ProtocolError, match="larger"):
        parser.receive(b"*3\r\n" + (b"$500\r\n" + b"x" * 500 + b"\r\n") * 3)


def test_an_array_is_bounded_by_what_it_says_before_it_comes() -> None:
    with pytest.raises(ProtocolError, match="beyond the bound"):
        Parser(max_reply_bytes=1000).receive(b"*1000\r\n")


def test_depth_is_bounded() -> None:
    assert Parser().receive(b"*1\r\n" * MAX_DEPTH + b":1\r\n")
    with pytest.raises(ProtocolError, match="deeper"):
        Parser().receive(b"*1\r\n" * (MAX_DEPTH + 1))


def test_a_command_is_an_array_of_strings() -> None:
    assert (
        encode(["SET", b"k\r\n", 7, 1.5, "ä"])
        == b"*5\r\n$3\r\nSET\r\n$3\r\nk\r\n\r\n$1\r\n7\r\n$3\r\n1.5\r\n$2\r\n\xc3\xa4\r\n"
    )
