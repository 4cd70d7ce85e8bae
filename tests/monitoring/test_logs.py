"""Logs: one line each, never in anybody's way, no secrets, no forged lines."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcpd.authoring.declarations import load
from mcpd.monitoring.logs import MAX_RECORD_CHARS, MAX_WAITING_BYTES, Logs, RequestLine, configure, mask

LINE = RequestLine("r-1", "http", "tools/call", "ok", 0.0015, target="echo", principal="laptop")


@pytest.fixture
def written() -> list[bytes]:
    return []


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    before = (logger.level, list(logger.handlers))
    yield logger
    logger.setLevel(before[0])
    logger.handlers[:] = before[1]


def texts(written: list[bytes]) -> list[str]:
    return b"".join(written).decode().splitlines()


def test_one_request_is_one_line(root: logging.Logger, written: list[bytes]) -> None:
    logs = configure("info", write=written.append)
    logs.request(LINE)
    assert logs.flush()
    (line,) = texts(written)
    assert line.endswith(
        "Z info request id=r-1 transport=http method=tools/call outcome=ok ms=1.50 target=echo principal=laptop"
    )
    logs.close()


@pytest.mark.parametrize(
    ("level", "seen"),
    [
        ("debug", ["request", "debugging", "informing", "warning", "failing"]),
        ("info", ["request", "informing", "warning", "failing"]),
        ("warning", ["warning", "failing"]),
        ("error", ["failing"]),
    ],
)
def test_the_level_decides_what_is_written(
    root: logging.Logger, written: list[bytes], level: str, seen: list[str]
) -> None:
    logs = configure(level, write=written.append)
    logs.request(LINE)
    logger = logging.getLogger("mcpd.test")
    logger.debug("debugging")
    logger.info("informing")
    logger.warning("warning")
    logger.error("failing")
    logs.close()
    words = [line.split()[2] if " request " in line else line.split()[-1] for line in texts(written)]
    assert words == seen


def test_a_traceback_keeps_its_lines_and_names_its_logger(root: logging.Logger, written: list[bytes]) -> None:
    logs = configure("error", write=written.append)
    try:
        raise LookupError("gone\x1b[2J")
    except LookupError:
        logging.getLogger("mcpd.tools").exception("tool %s failed, request %s", "echo", "r-1")
    logs.close()
    lines = texts(written)
    assert lines[0].endswith("error mcpd.tools: tool echo failed, request r-1")
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == "LookupError: gone\\x1b[2J"


def test_a_record_that_cannot_be_rendered_hurts_nobody(root: logging.Logger, written: list[bytes]) -> None:
    class Hostile:
        def __str__(self) -> str:
            raise RuntimeError

    logs = configure("info", write=written.append)
    logs.handler.handle(logging.LogRecord("mcpd.test", logging.INFO, "", 1, "%s", (Hostile(),), None))
    logs.close()
    assert "unprintable record of mcpd.test" in texts(written)[0]


@settings(deadline=None)
@example(text="BEARER")
@given(text=st.text(max_size=60))
def test_foreign_text_cannot_forge_a_line(text: str) -> None:
    """SEC-6."""
    written: list[bytes] = []
    logs = Logs(written.append, requests=True)
    logs.request(LINE._replace(method=text, target=text, request_id=text, detail=text))
    record = logging.LogRecord("x", logging.INFO, "", 1, "%s", (text,), None)
    logs.handler.emit(record)
    logs.close()
    data = b"".join(written)
    assert data.count(b"\n") == 2
    assert len(data.decode().splitlines()) == 2
    assert b" outcome=ok ms=1.50 " in data
    assert not any(byte < 32 and byte != 10 for byte in data)


@pytest.mark.parametrize(
    "text",
    ["mcpd_abcdefghijklmnopqrstuvwxyz-_0123456789", "Authorization: Bearer abc.def", "authorization: bearer   abc.def"],
)
def test_keys_and_tokens_are_masked(text: str) -> None:
    """SEC-6."""
    masked = mask(f"before {text} after")
    assert masked.startswith("before ")
    assert masked.endswith("*** after")
    assert "abc" not in masked


def test_names_of_our_metrics_are_not_taken_for_keys() -> None:
    assert mask("mcpd_requests") == "mcpd_requests"


def test_a_key_in_a_target_is_masked(root: logging.Logger, written: list[bytes]) -> None:
    """SEC-6."""
    logs = configure("info", write=written.append)
    logs.request(LINE._replace(target="mcpd_abcdefghijklmnopqrstuvwxyz"))
    logs.close()
    assert texts(written)[0].endswith("target=*** principal=laptop")


def test_a_full_pipe_delays_nobody_and_what_is_lost_is_counted_and_confessed() -> None:
    """SEC-4: log volume is bounded."""
    reader, writer = os.pipe()
    blocked = threading.Event()

    def write(data: bytes) -> None:
        blocked.set()
        os.write(writer, data)

    logs = Logs(write, requests=True, max_lines=10)
    os.set_blocking(writer, False)
    _fill(writer)
    os.set_blocking(writer, True)
    logs.request(LINE)
    assert blocked.wait(5)
    for _ in range(25):
        logs.request(LINE)
    logs.handler.emit(logging.LogRecord("x", logging.INFO, "", 1, "late", None, None))
    assert logs.dropped == 16
    assert logs.statistics().waiting == 10
    assert not logs.flush(0.01)

    received = bytearray()
    collector = threading.Thread(target=_collect, args=(reader, received))
    collector.start()
    assert logs.flush(5)
    logs.close()
    os.close(writer)
    collector.join(5)
    os.close(reader)
    text = received.decode().lstrip("x")
    assert text.count(" info request ") == 11
    assert "dropped 16 lines" in text
    assert logs.statistics().written == 12


class Stuck:
    """A stderr that takes nothing until it is let go."""

    def __init__(self) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.written: list[bytes] = []

    def __call__(self, data: bytes) -> None:
        self.entered.set()
        assert self.go_on.wait(120)
        self.written.append(data)


FOREIGN = ["x", "ü", "字", "🦊"]


def fill_while_stuck(put: Callable[[Logs, int], None], count: int) -> tuple[int, int, Logs, Stuck]:
    """Queue `count` things while stderr is stuck; return the memory they hold and that of the most they ever held."""
    stuck = Stuck()
    logs = Logs(stuck, requests=True)
    logs.request(LINE)
    assert stuck.entered.wait(5)
    tracemalloc.start()
    try:
        for number in range(count):
            put(logs, number)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return held, peak, logs, stuck


@pytest.mark.parametrize("letter", FOREIGN)
def test_megabytes_of_foreign_text_are_not_kept_while_stderr_is_stuck(letter: str) -> None:
    """SEC-4: the queue is bounded in bytes, whatever is in it."""

    def put(logs: Logs, number: int) -> None:
        text = f"{number} " + letter * 300_000
        if number % 3 == 0:
            logs.request(LINE._replace(target=text))
        elif number % 3 == 1:
            logs.request(LINE._replace(method=text, detail=text))
        else:
            logs.handler.handle(logging.LogRecord("x", logging.ERROR, "", 1, "%s failed", (text,), _raised(text)))

    held, _, logs, stuck = fill_while_stuck(put, 60)
    assert held < 2_000_000
    stuck.go_on.set()
    logs.close(60)
    assert max(map(len, b"".join(stuck.written).splitlines())) < 70_000


def test_many_lines_of_the_greatest_length_stay_within_the_bytes_of_the_queue() -> None:
    """SEC-4: what does not fit is counted."""

    def put(logs: Logs, number: int) -> None:
        logs.handler.handle(logging.LogRecord("x", logging.ERROR, "", 1, "%s", (f"{number}" + "🦊" * 8000,), None))
        logs.request(LINE._replace(target=f"{number}" + "🦊" * 255, detail=f"{number}" + "🦊" * 255))

    held, _, logs, stuck = fill_while_stuck(put, 350)
    assert logs.waiting_bytes <= MAX_WAITING_BYTES
    assert held < MAX_WAITING_BYTES * 1.2
    assert logs.dropped > 30
    stuck.go_on.set()
    assert logs.flush(60)
    assert logs.waiting_bytes == 0
    logs.close(60)
    assert b"log: dropped " in b"".join(stuck.written)


def _raised(text: str) -> Any:
    try:
        raise LookupError(text)
    except LookupError:
        return sys.exc_info()


def test_of_a_long_text_beginning_and_end_are_kept_and_no_key_is_cut_in_two() -> None:
    """SEC-6."""
    key = "mcpd_" + "k" * 43
    for before in range(MAX_RECORD_CHARS // 2 - 60, MAX_RECORD_CHARS // 2 + 1):
        written: list[bytes] = []
        logs = Logs(written.append, requests=True)
        text = "b" * before + key + "m" * MAX_RECORD_CHARS + key + "e" * before
        logs.handler.handle(logging.LogRecord("x", logging.ERROR, "", 1, "%s", (text,), _raised(f"{text} the end")))
        logs.request(LINE._replace(target="t" * (before % 300) + key + text))
        logs.close()
        out = b"".join(written).decode()
        assert "kkk" not in out
        assert "characters left out" in out
        assert "the end\n" in out


def _fill(writer: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)


def _collect(reader: int, into: bytearray) -> None:
    while data := os.read(reader, 65536):
        into += data


def test_a_closed_stderr_loses_lines_and_nothing_else() -> None:
    def write(_data: bytes) -> None:
        raise BrokenPipeError

    logs = Logs(write, requests=True)
    logs.request(LINE)
    assert logs.flush()
    logs.request(LINE)
    assert logs.flush()
    logs.close()
    assert logs.statistics().written == 0
    assert logs.dropped >= 2


def test_closing_writes_what_is_queued_and_ends_the_thread(root: logging.Logger, written: list[bytes]) -> None:
    before = set(threading.enumerate())
    logs = configure("info", write=written.append)
    for _ in range(2000):
        logs.request(LINE)
    logs.close()
    assert len(texts(written)) == 2000
    assert set(threading.enumerate()) <= before
    assert logs.handler not in root.handlers


def test_configuring_twice_leaves_one_handler(root: logging.Logger, written: list[bytes]) -> None:
    first = configure("info", write=written.append)
    second = configure("info", write=written.append)
    logging.getLogger("mcpd.test").info("once")
    first.close()
    second.close()
    assert len(texts(written)) == 1


def test_stderr_is_where_lines_go(root: logging.Logger, capfd: pytest.CaptureFixture[Any]) -> None:
    """IO: stdout carries nothing but the protocol."""
    logs = configure("info")
    logs.request(LINE)
    logs.close()
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1


def test_names_of_modules_are_not_taken_for_keys(tmp_path: Path) -> None:
    """An author has to see which file it was."""
    file = tmp_path / "weather_and_tides.py"
    file.write_text("from mcpd import tool\n\n@tool\ndef tide() -> str:\n    return ''\n")
    (declared,) = load(str(file))
    assert mask(declared.fn.__module__) == declared.fn.__module__
    assert mask("File '/x/mcpd_weather_and_tides.py', line 3") == "File '/x/mcpd_weather_and_tides.py', line 3"
    assert "mcpd_weather" not in mask("mcpd_weather_and_tides.pyx")
