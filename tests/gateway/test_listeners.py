"""What the server listens on: Unix sockets, TLS with HTTP/2, limits of connections, no WebSocket compression.

A real server process each time, because sockets, file modes and Hypercorn's own behaviour are what is tested.
"""

from __future__ import annotations

import base64
import os
import resource
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from mcpd.config import Server, Timeouts
from mcpd.errors import ConfigurationError
from mcpd.gateway.server.sockets import open_metrics_sockets, open_sockets

PATIENCE_S = 20.0
_META = (
    '"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}'
)
DISCOVER = f'{{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{{{_META}}}}}'
HEADERS = {
    "content-type": "application/json",
    "mcp-protocol-version": "2026-07-28",
    "mcp-method": "server/discover",
}

UNFINISHED = (
    b"POST /mcp HTTP/1.1\r\nHost: localhost:%d\r\nAccept: application/json, text/event-stream\r\n"
    b"Content-Type: application/json\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n"
)
"""A request whose body the server waits for, and says so."""


@contextmanager
def serving(folder: Path, *arguments: str, config: str = "") -> Iterator[subprocess.Popen[str]]:
    """Run `mcpd serve` in `folder` until the block is left; yields when it has said what it serves."""
    (folder / "mcpd.toml").write_text(config)
    process = subprocess.Popen(
        [sys.executable, "-m", "mcpd", "serve", "--log-level", "warning", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert "mcpd" in process.stdout.readline()
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(PATIENCE_S)
        process.stdout.close()
    assert code == 0


def try_to_serve(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `mcpd serve` where it cannot start, to its end."""
    command = [sys.executable, "-m", "mcpd", "serve", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def ask(client: httpx.Client, base: str) -> str:
    """Discover the server; return the HTTP version it answered with."""
    reply = client.post(f"{base}/mcp", content=DISCOVER, headers=HEADERS)
    assert reply.status_code == 200, reply.text
    assert reply.json()["result"]["supportedVersions"] == ["2026-07-28"]
    return reply.http_version


def test_a_unix_socket_serves_and_only_its_owner_may_connect(tmp_path: Path) -> None:
    """SEC-3: a socket file counts as loopback, its mode guards it."""
    path = tmp_path / "mcpd.sock"
    with serving(tmp_path, "--bind", f"unix:{path}"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            ask(client, "http://localhost")


def test_the_socket_file_of_a_dead_server_is_replaced_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    """A crash must not keep the next start from happening; a second start must not steal the first one's clients."""
    path = tmp_path / "mcpd.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with serving(tmp_path, "--bind", f"unix:{path}"):
        second = try_to_serve(tmp_path, "--bind", f"unix:{path}")
        assert second.returncode == 2
        assert str(path) in second.stderr


def test_a_port_in_use_is_one_line_that_says_what_to_do(tmp_path: Path, free_port: int) -> None:
    """A traceback would tell an operator nothing."""
    with serving(tmp_path, "--port", str(free_port)):
        second = try_to_serve(tmp_path, "--port", str(free_port))
    assert second.returncode == 2
    assert "--port" in second.stderr
    assert "Traceback" not in second.stderr


@pytest.mark.parametrize(("setting", "best"), [("", "HTTP/1.1"), ("server.http2 = true\n", "HTTP/2")])
def test_tls_serves_http_1_and_http_2_only_when_told(
    tmp_path: Path, free_port: int, need: Callable[[str], Path], setting: str, best: str
) -> None:
    """ALPN chooses; without the setting only HTTP/1.1 is offered."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make = f"req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {cert} -days 2 -subj /CN=localhost"
    command = [str(need("openssl")), *make.split(), "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    trust = ssl.create_default_context(cafile=str(cert))
    base = f"https://localhost:{free_port}"
    with serving(tmp_path, "--port", str(free_port), "--tls-cert", str(cert), "--tls-key", str(key), config=setting):
        with httpx.Client(verify=trust) as client:
            assert ask(client, base) == "HTTP/1.1"
        with httpx.Client(verify=trust, http2=True) as client:
            assert ask(client, base) == best


def test_connections_beyond_the_limit_are_turned_away_and_places_come_back(tmp_path: Path, free_port: int) -> None:
    """SEC-4: Hypercorn has no limit of its own, and keeps a left connection until its keep-alive timeout."""
    with serving(tmp_path, "--port", str(free_port), config="limits.max_connections = 3\n"):
        held = [socket.create_connection(("127.0.0.1", free_port)) for _ in range(3)]
        for connection in held:
            connection.sendall(UNFINISHED % free_port)  # an idle one would give way
            assert connection.recv(100).startswith(b"HTTP/1.1 100")
        with socket.create_connection(("127.0.0.1", free_port)) as fourth:
            fourth.settimeout(PATIENCE_S)
            assert fourth.recv(100).startswith(b"HTTP/1.1 503")
        for connection in held:
            connection.close()
        with httpx.Client() as client:
            wait_served(client, f"http://127.0.0.1:{free_port}/healthz")


def wait_served(client: httpx.Client, url: str) -> None:
    """Ask until there is room."""
    until = time.monotonic() + PATIENCE_S
    while client.get(url).status_code != 200:
        assert time.monotonic() < until, "no place came back"


def test_websocket_compression_is_never_agreed_on(tmp_path: Path, free_port: int) -> None:
    """SEC-4: a 200 KB frame of compressed zeros would become 300 MB before its size is looked at."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = (
        f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{free_port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    )
    with (
        serving(tmp_path, "--port", str(free_port)),
        socket.create_connection(("127.0.0.1", free_port)) as connection,
    ):
        connection.settimeout(PATIENCE_S)
        connection.sendall(lines.encode())
        head = connection.recv(4096).lower()
        assert head.startswith(b"http/1.1 101")
        assert b"sec-websocket-extensions" not in head
        connection.sendall(b"\xc1\x80\x00\x00\x00\x00")  # a frame that claims to be compressed (RSV1)
        while connection.recv(64):
            pass  # a ping or a close frame may come first; what counts is that the server ends the connection


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/nowhere"])
def test_every_reply_carries_a_request_id_and_keeps_a_well_formed_one(
    tmp_path: Path, free_port: int, path: str
) -> None:
    """Surfaces "Everywhere"."""
    with serving(tmp_path, "--port", str(free_port)), httpx.Client() as client:
        url = f"http://127.0.0.1:{free_port}{path}"
        assert client.get(url, headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
        assert client.get(url, headers={"x-request-id": "not mine"}).headers["x-request-id"] != "not mine"


def test_files_are_read_when_connections_have_taken_all_descriptors(tmp_path: Path, free_port: int) -> None:
    """Connections are refused before the last descriptors are gone, and the start says that there are few."""
    (tmp_path / "a.txt").write_text("here")
    (tmp_path / "mcpd.toml").write_text("")
    serve = f"exec {sys.executable} -m mcpd serve --port {free_port} --files . 2>log"
    process = subprocess.Popen(["/bin/sh", "-c", f"ulimit -n 200; {serve}"], cwd=tmp_path, stdout=subprocess.PIPE)
    assert process.stdout is not None
    held = []
    try:
        assert b"mcpd" in process.stdout.readline()
        held.append(open_websocket(free_port))
        for _ in range(190):
            held.append(socket.create_connection(("127.0.0.1", free_port)))
            held[-1].sendall(b"GET /healthz HTTP/1.1\r\n")
        with socket.create_connection(("127.0.0.1", free_port), PATIENCE_S) as another:
            assert another.recv(100).startswith(b"HTTP/1.1 503")
        assert b"here" in read_file(held[0], "a.txt")
    finally:
        for connection in held:
            connection.close()
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
        process.stdout.close()
    assert "limits.max_connections is 1000, but the limit of open files is 200" in (tmp_path / "log").read_text()


def open_websocket(port: int) -> socket.socket:
    """Shake hands at `/ws`."""
    connection = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
    lines = (
        f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    connection.sendall(lines.encode())
    assert connection.recv(4096).startswith(b"HTTP/1.1 101")
    return connection


def read_file(websocket: socket.socket, path: str) -> bytes:
    """Call the tool, in a frame whose mask is zero, and return what comes back first."""
    arguments = f'"name":"read_file","arguments":{{"path":"{path}"}},{_META}'
    body = f'{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{{arguments}}}}}'.encode()
    websocket.sendall(b"\x81\xfe" + len(body).to_bytes(2, "big") + b"\x00\x00\x00\x00" + body)
    return websocket.recv(4096)


def test_the_limit_of_open_files_is_raised_to_what_the_limits_promise(tmp_path: Path, free_port: int) -> None:
    (tmp_path / "mcpd.toml").write_text("")
    serve = f"exec {sys.executable} -m mcpd serve --port {free_port} 2>log"
    process = subprocess.Popen(["/bin/sh", "-c", f"ulimit -Sn 256; {serve}"], cwd=tmp_path, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert b"mcpd" in process.stdout.readline()
        assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[0] >= 1000
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
        process.stdout.close()
    assert "max_connections" not in (tmp_path / "log").read_text()


def test_an_ipv6_address_is_written_in_brackets_beside_its_port() -> None:
    """Configuration: `server.metrics_bind`; and what a failure calls the place."""
    try:
        (sock,) = open_metrics_sockets(Server(metrics_bind="[::1]:0"), Timeouts())
    except ConfigurationError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with sock:
        host, port = sock.getsockname()[:2]
        assert host == "::1"
        with pytest.raises(ConfigurationError, match=rf"Cannot listen on \[::1\]:{port}: "):
            open_sockets(Server(host="::1", port=port), Timeouts())
