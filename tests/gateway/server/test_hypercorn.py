"""What we add around Hypercorn, by itself: the boundary of each connection, and what we rely on in it."""

from __future__ import annotations

import importlib.metadata
import inspect
import logging
import socket
import subprocess
from pathlib import Path

import hypercorn.protocol
import hypercorn.trio.run
import pytest
import trio
import trio.testing
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.protocol.h2 import H2Protocol, StreamBuffer
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import EventWrapper

from mcpd.config import Limits, Server, Timeouts
from mcpd.errors import ConfigurationError
from mcpd.gateway.server.hypercorn import HYPERCORN_VERSION, Connections, check_certificate
from mcpd.gateway.server.sockets import open_sockets
from mcpd.monitoring.logs import RequestLine
from mcpd.monitoring.metrics import Metrics
from tests.needs import need


async def no_application(*_: object) -> None:
    """Is never reached."""
    raise AssertionError


async def serve(error: BaseException) -> None:
    """Serve one connection on which reading fails with `error`."""

    async def fail() -> None:
        raise error

    _, ours = trio.testing.memory_stream_pair()
    ours.receive_stream.receive_some_hook = fail
    connections = Connections(Limits(), Timeouts(), Metrics(), log=list[RequestLine]().append)
    await connections.serve(ASGIWrapper(no_application), HypercornConfig(), None, {}, ours)


async def test_what_goes_wrong_in_a_connection_is_logged_and_ends_only_that(caplog: pytest.LogCaptureFixture) -> None:
    """Law 7: Hypercorn's nursery holds all connections, and an exception would end the server."""
    await serve(RuntimeError("odd"))
    assert "odd" in caplog.text


async def test_a_cancellation_that_nobody_asked_for_leaves_no_connection(caplog: pytest.LogCaptureFixture) -> None:
    """It would end the nursery of all connections, and nobody would listen any more while the process goes on."""
    with trio.CancelScope() as elsewhere:
        elsewhere.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:  # noqa: ASYNC103 - it is what goes astray
            stray = error
            with trio.CancelScope(shield=True):
                await serve(stray)
    assert "cancelled by nobody" in caplog.text


async def test_a_connection_that_breaks_in_the_system_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    await serve(ConnectionResetError("reset"))
    assert not caplog.records


def test_hypercorn_is_the_version_that_was_checked() -> None:
    """Whoever takes another one reads `serve_http` and `http2` again, then writes it there."""
    assert importlib.metadata.version("hypercorn") == HYPERCORN_VERSION


def test_what_we_replace_in_hypercorn_is_what_it_uses() -> None:
    """Its server looks these names up when it needs them, and calls the first with these arguments."""
    assert "TCPServer" in hypercorn.trio.run.worker_serve.__code__.co_names
    assert list(inspect.signature(TCPServer).parameters) == ["app", "config", "context", "state", "stream"]
    assert "H2Protocol" in hypercorn.protocol.ProtocolWrapper.__init__.__code__.co_names
    assert 'if method == "CONNECT":' in inspect.getsource(H2Protocol._create_stream)
    assert "await self._create_stream(event)" in inspect.getsource(H2Protocol)


@pytest.mark.parametrize("name", ["_read_data", "protocol_send", "send_lock", "protocol", "_task_group"])
def test_what_our_http2_connections_override_is_there(name: str) -> None:
    assert name in inspect.getsource(TCPServer)


async def test_what_our_http2_connections_look_into_is_there() -> None:
    source = inspect.getsource(H2Protocol)
    assert "self.streams[event.stream_id].handle(" in source
    assert "self.streams.pop(stream_id)" in source
    assert "self.stream_buffers[request.stream_id] = StreamBuffer(" in source
    assert StreamBuffer(EventWrapper).buffer == b""
    assert "await self._priority_updated(event)" in source
    assert "self.connection.send_data(stream_id, data)" in source
    async with TaskGroup() as group:
        assert group._nursery is not None


def test_a_failing_accept_is_said_seldom(caplog: pytest.LogCaptureFixture) -> None:
    """Trio tries again ten times a second, and would say so each time."""
    for _ in range(5):
        logging.getLogger("trio.serve_listeners").error("accept returned %s", "EMFILE")
    assert len(caplog.records) <= 1


@pytest.mark.parametrize("what", ["a datagram socket", "a busy server", "a file"])
def test_what_is_not_left_by_a_server_that_has_gone_is_not_removed_and_not_waited_for(
    what: str, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(4)]
    kind = socket.SOCK_DGRAM if what == "a datagram socket" else socket.SOCK_STREAM
    with socket.socket(socket.AF_UNIX, kind) as theirs:
        if what == "a file":
            path.write_text("precious")
        else:
            theirs.bind(str(path))
        if what == "a busy server":
            theirs.listen(0)
            for client in waiting:
                client.setblocking(False)
                client.connect_ex(str(path))
        before = path.stat().st_ino
        with pytest.raises(ConfigurationError, match="Address already in use; choose another --bind"):
            open_sockets(Server(bind=f"unix:{path}"), Timeouts())
        assert path.stat().st_ino == before
    for client in waiting:
        client.close()


def test_the_socket_of_a_server_that_has_gone_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
    (replaced,) = open_sockets(Server(bind=f"unix:{path}"), Timeouts())
    with replaced, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_pass_phrase(tmp_path: Path) -> None:
    """CLI: what went wrong is one line that says what to do."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make = f"req -x509 -newkey rsa:2048 -passout pass:secret -keyout {key} -out {cert} -days 2 -subj /CN=localhost"
    subprocess.run([need("openssl"), *make.split()], check=True, capture_output=True)
    with pytest.raises(ConfigurationError, match="is encrypted"):
        check_certificate(Server(tls_cert=cert, tls_key=key))
