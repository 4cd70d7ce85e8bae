"""What the server and a worker process say to each other, as values and as bytes.

A frame is four bytes of length, big-endian, and that many bytes of JSON: one tagged object. The server sends `Job`;
the worker sends `Ready` once, then for each job any number of `Progress` and `Log` and exactly one of `Done`,
`Refused`, `Failed`. Whatever else arrives is `Garbage`, and its sender is not to be trusted again.

Called by: `tools.process` (server) and `tools.worker` (child), so this file is pure and imports msgspec only: what it
imports is paid by every worker's start. Deliberately not: a reader of sockets; `FrameReader` is fed bytes.

Laws: 3 (pure core), 8 (a frame is never longer than `max_message_bytes`, checked before its body is kept).
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final, Literal

import msgspec

HEADER_BYTES: Final = 4


class Garbage(ValueError):
    """The other side does not speak this protocol (any more)."""


class Setup(msgspec.Struct, frozen=True):
    """The worker's one command-line argument, as JSON."""

    fd: int
    """The worker's end of the socket pair."""
    parent: int
    """Pid of the server: a worker that finds another parent leaves at once."""
    max_message_bytes: int
    preload: tuple[str, ...] = ()
    """Tool files or modules to load before saying `Ready`."""
    python_path: str | None = None
    """The server's own PYTHONPATH, put back after the start so that a tool's children see what they would have seen."""


class Job(msgspec.Struct, frozen=True, tag="job"):
    """Run one tool."""

    target: str
    """Tool file or module, as `authoring.declarations.load` takes it."""
    tool: str
    arguments: dict[str, Any]
    deadline: float
    """On the `time.monotonic()` clock, which all processes of one machine share."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The worker has started and waits for its first job."""


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """`ctx.progress(done, total, message)`."""

    done: float
    total: float | None = None
    message: str | None = None


class Log(msgspec.Struct, frozen=True, tag="log"):
    """`ctx.log(level, data, logger)`."""

    level: str
    data: Any
    logger: str | None = None


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The tool returned; `result` is the body of a `tools/call` result."""

    result: dict[str, Any]


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The call failed for a reason that its caller may read."""

    kind: Literal["tool", "arguments", "registration", "too_large", "rpc"]
    text: str
    code: int = 0
    """Of `rpc`, as `data`."""
    data: Any = None


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The tool raised something unforeseen (`error` is `Type: message`), or what it returned is no result."""

    error: str
    traceback: str
    """For the log, never for the client."""
    raised: bool = False


Reply = Done | Refused | Failed
FromWorker = Ready | Progress | Log | Done | Refused | Failed

_encoder = msgspec.json.Encoder()
_from_worker: msgspec.json.Decoder[FromWorker] = msgspec.json.Decoder(FromWorker)
_job: msgspec.json.Decoder[Job] = msgspec.json.Decoder(Job)


def encode(message: Job | FromWorker) -> bytes:
    """Return `message` as one frame, of whatever length.

    Raises: TypeError, ValueError or RecursionError when a value in it is not JSON.
    """
    body = _encoder.encode(message)
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def decode_from_worker(body: bytes) -> FromWorker:
    """Return what a worker said. Raises: Garbage."""
    try:
        return _from_worker.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Garbage(f"not a worker's message: {error}") from None


def decode_job(body: bytes) -> Job:
    """Return what the server asks for. Raises: Garbage."""
    try:
        return _job.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Garbage(f"not a job: {error}") from None


class Need(Enum):
    """The answer of a reader that has no whole frame."""

    DATA = "data"


NEED_DATA: Final = Need.DATA


class FrameReader:
    """Cut a stream of bytes into frame bodies; holds at most one frame and one chunk."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    @property
    def empty(self) -> bool:
        """True between two frames."""
        return not self._buffer

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        self._buffer += data

    def next_frame(self) -> bytes | Need:
        """Return the next body, or NEED_DATA. Raises: Garbage when a length is over the limit."""
        buffer = self._buffer
        if len(buffer) < HEADER_BYTES:
            return NEED_DATA
        end = HEADER_BYTES + int.from_bytes(buffer[:HEADER_BYTES], "big")
        if end - HEADER_BYTES > self._max_bytes:
            raise Garbage(f"a frame of {end - HEADER_BYTES} bytes; at most {self._max_bytes} are allowed")
        if len(buffer) < end:
            return NEED_DATA
        body = bytes(buffer[HEADER_BYTES:end])
        del buffer[:end]
        return body
