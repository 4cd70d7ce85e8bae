"""Logs on stderr that never hold up a call: one line per request, and what Python's `logging` is given.

A line is queued by the caller and written by one daemon thread, which batches; a full pipe blocks that thread and
nobody else. Lines are bounded, and so is the queue, in lines and in bytes; what does not fit is dropped, counted, and
reported in a line of its own as soon as there is room. A thread, because O_NONBLOCK on stderr would change it for every
process that shares the terminal.

Called by: the composition root (`configure`), the Message Manager (`Logs.request`), everybody through `logging`.
Calls nothing of ours. Deliberately not: a log file, rotation, or JSON; stderr belongs to whoever started us.

Laws: keys and bearer tokens are masked; control characters of foreign text are escaped, so that a client cannot forge a
line; stdout is never touched; an idle server's log thread sleeps without a clock.

Sources: issue "one log line per request"; SEC-6; logfmt (key=value).
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import re
import select
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from sys import getsizeof
from types import TracebackType
from typing import NamedTuple

from mcpd.errors import counted, traceback_of

_SECONDS_ITEMS = 4
"""Formatted seconds that are kept: the present one, and those of late lines."""

STDERR = 2
MAX_LINES_ITEMS = 4096
MAX_WAITING_BYTES = 8 * 1024 * 1024
"""Memory of all queued lines: 4,096 usual ones take a third of it."""
MAX_RECORD_CHARS = 8192
"""Of a message, and of a traceback: its beginning and its end are kept."""
_MAX_VALUE_CHARS = 256
_LINE_BYTES = 512
"""What a queued request line takes besides the text of others in it."""
_BATCH_ITEMS = 512
_BATCH_BYTES = 256 * 1024
_LINGER_S = 0.02
"""So long a line waits for others to be written with it."""
_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")
_MAX_KEY_CHARS = 8192
_TOKEN = re.compile(r"mcpd_[A-Za-z0-9_-]{12,}+(?!\.py\b)|(?i:bearer)\s+[^\s\"']+")
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {0x2028: "\\u2028", 0x2029: "\\u2029"}
_ESCAPES_KEPT_LINES = {code: text for code, text in _ESCAPES.items() if code != 10}
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class RequestLine(NamedTuple):
    """What the line of one request says; empty parts are left out. `seconds` is its whole duration."""

    request_id: str
    transport: str
    method: str
    outcome: str
    seconds: float
    target: str = ""
    """Tool, prompt or URI."""
    principal: str = ""
    client: str = ""
    """Address of the peer."""
    traceparent: str = ""
    status: str = ""
    """Of the reply, where it is not 200 for every outcome."""
    detail: str = ""
    """Why it ended so, when the outcome alone does not say."""


_OPTIONAL = RequestLine._fields[5:]


class LogStatistics(NamedTuple):
    """Lines written, dropped and waiting."""

    written: int
    dropped: int
    waiting: int


class Logs:
    """The queue and its writer thread.

    `write` takes bytes and may block or raise OSError. Resources: `close` ends the thread; the process may also just
    end, since the thread is a daemon.
    """

    def __init__(self, write: Callable[[bytes], object], *, requests: bool, max_lines: int = MAX_LINES_ITEMS) -> None:
        self._write = write
        self.requests = requests
        """Whether finished requests get a line at all."""
        self._max_lines = max_lines
        self._queue: deque[tuple[int, str | tuple[float, RequestLine] | threading.Event]] = deque()
        self._put_bytes = self._logged_bytes = self._taken_bytes = 0
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._written = 0
        self._unrequested = 0
        self._unlogged = 0
        self._unwritten = 0
        self._reported = 0
        self._handler = _Handler(self._text)
        self._thread = threading.Thread(target=self._run, name="mcpd-log", daemon=True)
        self._thread.start()

    def request(self, line: RequestLine) -> None:
        """Queue the line of a finished request; never blocks. Call it on the Trio thread only."""
        if not self.requests:
            return
        size = _LINE_BYTES + getsizeof(line.method) + getsizeof(line.target) + getsizeof(line.detail)
        if size > _MAX_LINE_BYTES:
            line, size = _shortened(line), _MAX_LINE_BYTES
        if not self._has_room(size):
            self._unrequested += 1
            return
        self._put_bytes += size
        self._queue.append((size, (time.time(), line)))
        if not self._wake.is_set():
            self._wake.set()

    def _text(self, text: str) -> None:
        """Queue a ready line; never blocks. The handler's lock is held."""
        size = getsizeof(text)
        if not self._has_room(size):
            self._unlogged += 1
            return
        self._logged_bytes += size
        self._queue.append((size, text))
        self._wake.set()

    def printed(self, text: str) -> None:
        """Queue what a tool has printed, as it is; never blocks. Any thread."""
        with self._handler.lock or contextlib.nullcontext():
            self._text(text)

    def _has_room(self, size: int) -> bool:
        return len(self._queue) < self._max_lines and self.waiting_bytes + size <= MAX_WAITING_BYTES

    @property
    def waiting_bytes(self) -> int:
        """Memory of what is queued. Each of its counters has one writer: Trio's thread, the handler's lock, ours."""
        return self._put_bytes + self._logged_bytes - self._taken_bytes

    @property
    def handler(self) -> logging.Handler:
        """What to add to a logger."""
        return self._handler

    @property
    def dropped(self) -> int:
        """Lines lost so far: no room in the queue, or stderr gone."""
        return self._unrequested + self._unlogged + self._unwritten

    def statistics(self) -> LogStatistics:
        """Return the counts; approximate while lines are being written."""
        return LogStatistics(self._written, self.dropped, len(self._queue))

    def flush(self, timeout_s: float = 1.0) -> bool:
        """Wait until all that is queued now is written; False when stderr takes longer. Blocks its thread."""
        done = threading.Event()
        self._queue.append((0, done))
        self._wake.set()
        return done.wait(timeout_s)

    def close(self, timeout_s: float = 1.0) -> None:
        """Detach from the root logger, write what is queued, and end the thread, or leave it if stderr is stuck."""
        logging.getLogger().removeHandler(self._handler)
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._closing.wait(_LINGER_S)
            self._wake.clear()
            while self._queue:
                self._write_batch()
            if self._closing.is_set():
                return

    def _write_batch(self) -> None:
        texts: list[str] = []
        flushed: list[threading.Event] = []
        end = self._taken_bytes + _BATCH_BYTES
        while self._queue and len(texts) < _BATCH_ITEMS and self._taken_bytes < end:
            size, item = self._queue.popleft()
            self._taken_bytes += size
            if isinstance(item, threading.Event):
                flushed.append(item)
            else:
                texts.append(mask(item) if isinstance(item, str) else _render_request(*item))
        self._write_texts(texts)
        for event in flushed:
            event.set()

    def _write_texts(self, texts: list[str]) -> None:
        lost = self.dropped - self._reported
        if lost:
            self._reported += lost
            texts.append(
                f"{_stamp(time.time())} warning log: dropped {counted(lost, 'line')}: stderr is slow or was closed\n"
            )
        if not texts:
            return
        try:
            self._write("".join(texts).encode("utf-8", "backslashreplace"))
            self._written += len(texts)
        except (OSError, ValueError):
            self._unwritten += len(texts)


_Raised = tuple[type[BaseException], BaseException, TracebackType | None]


def raised(error: BaseException) -> _Raised:
    """Return the `exc_info` of `error` without asking the error, whose class may have attributes that raise."""
    return type(error), error, traceback_of(error)


class _Handler(logging.Handler):
    """Renders records on the thread that logs, since their arguments may change later."""

    def __init__(self, put: Callable[[str], None]) -> None:
        super().__init__()
        self._put = put
        self._formatter = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = _render_record(record, self._formatter)
        except BaseException:  # noqa: ASYNC103, BLE001 - a wrong format string, or a value's `__str__`, must not end what logs it
            text = f"{_stamp(record.created)} error log: unprintable record of {record.name}:{record.lineno}\n"
        self._put(text)


def configure(level: str = "info", *, write: Callable[[bytes], object] | None = None) -> Logs:
    """Send all logging of this process to stderr through a new `Logs`, and return it.

    `level` is `debug`, `info`, `warning` or `error`; request lines have the level `info`. `write` replaces stderr.
    """
    number = _LEVELS[level]
    logs = Logs(write or _write_stderr, requests=number <= logging.INFO)
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(handler)
    root.addHandler(logs.handler)
    root.setLevel(number)
    return logs


def mask(text: str) -> str:
    """Return `text` with API keys and bearer tokens replaced by `***` (SEC-6)."""
    if "mcpd_" not in text and "bearer" not in text.lower():
        return text
    return _TOKEN.sub("***", text)


def _write_stderr(data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(STDERR, view) :]
        except BlockingIOError:
            select.select([], [STDERR], [])


def _render_request(at: float, line: RequestLine) -> str:
    parts = [f"{_stamp(at)} info request id={_value(line.request_id)} transport={line.transport}"]
    parts.append(f"method={_value(line.method)} outcome={line.outcome} ms={line.seconds * 1000:.2f}")
    parts.extend(f"{name}={_value(text)}" for name, text in zip(_OPTIONAL, line[5:], strict=True) if text)
    return " ".join(parts) + "\n"


_MAX_LINE_BYTES = _LINE_BYTES + 3 * getsizeof("\U0010ffff" * _MAX_VALUE_CHARS)


def _shortened(line: RequestLine) -> RequestLine:
    """Keep no more of foreign text than will be written; the whole of it may be megabytes that a client sent."""
    method, target, detail = (mask(text)[:_MAX_VALUE_CHARS] for text in (line.method, line.target, line.detail))
    return line._replace(method=method, target=target, detail=detail)


def _value(text: str) -> str:
    text = mask(text)[:_MAX_VALUE_CHARS]
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _render_record(record: logging.LogRecord, formatter: logging.Formatter) -> str:
    message = _bounded(record.getMessage()).translate(_ESCAPES)
    text = f"{_stamp(record.created)} {record.levelname.lower()} {record.name}: {message}\n"
    if record.exc_info and record.exc_info[0] is not None:
        text += _bounded(_render_traceback(record.exc_info, formatter)).translate(_ESCAPES_KEPT_LINES) + "\n"
    return text


def _render_traceback(found: _Raised, formatter: logging.Formatter) -> str:
    try:
        return formatter.formatException(found)
    except BaseException:  # noqa: ASYNC103, BLE001 - an author's exception may raise whatever is asked of it
        return "".join([*traceback.format_tb(found[2]), "an exception that cannot be shown"])  # noqa: ASYNC104 - as above


def _bounded(text: str) -> str:
    """Return beginning and end of a text that is too long, masked, in a time that does not grow with it.

    Each is masked with what lies beyond its edge, which is then left out: half a key would not be found.
    """
    if len(text) <= MAX_RECORD_CHARS:
        return text
    taken = MAX_RECORD_CHARS // 2 + _MAX_KEY_CHARS
    if len(text) <= 2 * taken:
        text = mask(text)
        first, last = text[: MAX_RECORD_CHARS // 2], text[-MAX_RECORD_CHARS // 2 :]
    else:
        first, last = mask(text[:taken])[:-_MAX_KEY_CHARS], mask(text[-taken:])[_MAX_KEY_CHARS:]
    return f"{first} [... {len(text) - len(first) - len(last)} characters left out ...] {last}"


def _stamp(at: float) -> str:
    second = int(at)
    return f"{_second(second)}.{int((at - second) * 1000):03d}Z"


@functools.lru_cache(maxsize=_SECONDS_ITEMS)
def _second(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
