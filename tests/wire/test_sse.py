"""Server-sent events, held against a small reader written from the WHATWG algorithm."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpd.wire import sse


def read(stream: bytes) -> list[dict[str, Any]]:
    """Interpret a stream as WHATWG HTML 9.2.6 has it; incomplete events at its end are discarded."""
    events: list[dict[str, Any]] = []
    current: dict[str, Any] = {}
    for line in re.split(r"\r\n|\n|\r", stream.decode())[:-1]:
        if not line:
            if "data" in current:
                events.append({"event": "message", **current, "data": "\n".join(current["data"])})
            current = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                current.setdefault("data", []).append(value)
            else:
                current[name] = value
    return events


def test_an_event_has_its_type_id_delay_and_one_data_line() -> None:
    """RSP-5: one message, one event."""
    assert sse.event(b'{"a":1}') == b'event: message\ndata: {"a":1}\n\n'
    assert sse.event(b"{}", id="s-1", retry_ms=500) == b"event: message\nid: s-1\nretry: 500\ndata: {}\n\n"
    assert sse.event(b"{}", event=None) == b"data: {}\n\n"


def test_priming_gives_an_id_and_empty_data() -> None:
    """RSM-3: an id line and an empty data line."""
    assert sse.prime("s-0") == b"id: s-0\ndata: \n\n"
    assert sse.prime("s-0", 0) == b"id: s-0\nretry: 0\ndata: \n\n"
    assert read(sse.prime("s-0")) == [{"event": "message", "id": "s-0", "data": ""}]


def test_a_ping_is_no_event() -> None:
    """RSP-3: proxies see bytes, clients see nothing."""
    assert read(sse.PING + sse.event(b"1") + sse.PING) == [{"event": "message", "data": "1"}]


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\0b", "\n"])
def test_an_id_or_type_cannot_smuggle_a_line(bad: str) -> None:
    """RSM-1."""
    with pytest.raises(ValueError, match="line break"):
        sse.event(b"{}", id=bad)
    with pytest.raises(ValueError, match="line break"):
        sse.event(b"{}", event=bad)
    with pytest.raises(ValueError, match="line break"):
        sse.prime(bad)


@given(st.lists(st.text(), max_size=4))
def test_a_reader_gets_back_what_was_framed(texts: list[str]) -> None:
    """RSP-5: line breaks inside data arrive as line feeds, all else as it was."""
    stream = b"".join(sse.event(text.encode(), id=str(number)) for number, text in enumerate(texts))
    expected = [re.sub(r"\r\n|\r", "\n", text) for text in texts]
    assert [event["data"] for event in read(stream)] == expected
    assert [event["id"] for event in read(stream)] == [str(number) for number in range(len(texts))]
