"""HTTP/2 where it is switched on: its connections end. The whole server over TLS, a client made of h2."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest
import trio

from tests import needs
from tests.in_process import WAIT_S, Running, eventually, http_server, server_config

Event = TypeVar("Event", bound=h2.events.Event)
Certificate = tuple[Path, Path]
GET = [(":method", "GET"), (":path", "/metrics"), (":scheme", "https"), (":authority", "localhost")]
POST = [*GET[2:], (":method", "POST"), (":path", "/mcp"), ("content-type", "text/plain")]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    make = f"req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {cert} -days 2 -subj /CN=localhost"
    command = [str(needs.need("openssl")), *make.split(), "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


@asynccontextmanager
async def serving(folder: Path, certificate: Certificate, **timeouts: float) -> AsyncIterator[Running]:
    config = server_config(folder)
    config = replace(config, timeouts=replace(config.timeouts, **timeouts))
    server = replace(config.server, tls_cert=certificate[0], tls_key=certificate[1], http2=True)
    with trio.fail_after(2 * WAIT_S):
        async with http_server(replace(config, server=server)) as running:
            yield running


class Client:
    """One connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.events: list[h2.events.Event] = []

    async def flush(self) -> None:
        """Send what h2 has to say."""
        await self.stream.send_all(self.h2.data_to_send())

    async def until(self, kind: type[Event]) -> Event:
        """Read until an event of this kind has come; return the first one."""
        while not (found := [event for event in self.events if isinstance(event, kind)]):
            self.events += self.h2.receive_data(bytes(await self.stream.receive_some()))
            await self.flush()
        self.events.clear()
        return found[0]

    async def status(self, stream_id: int) -> str:
        """Ask for the metrics on a new stream and return the status of the answer."""
        self.h2.send_headers(stream_id, GET, end_stream=True)
        await self.flush()
        answer = await self.until(h2.events.ResponseReceived)
        return next(str(value) for name, value in answer.headers or [] if str(name) == ":status")

    async def until_closed(self) -> None:
        """Read until the server closes."""
        with contextlib.suppress(trio.BrokenResourceError):
            while await self.stream.receive_some():
                pass


@asynccontextmanager
async def connected(running: Running, certificate: Certificate, window: int = 65535) -> AsyncIterator[Client]:
    trust = ssl.create_default_context(cafile=str(certificate[0]))
    trust.set_alpn_protocols(["h2"])
    tcp = await trio.open_tcp_stream("127.0.0.1", running.port)
    async with tcp:
        stream = trio.SSLStream(tcp, trust, server_hostname="localhost", https_compatible=True)
        client = Client(stream)
        client.h2.local_settings = h2.settings.Settings(
            client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        )
        client.h2.initiate_connection()
        await client.flush()
        yield client


def gone(running: Running) -> Callable[[], bool]:
    return lambda: running.metric("mcpd_connections", transport="http") == 0


@pytest.mark.parametrize("says", ["nothing", "pings", "half a head", "a reset"])
async def test_a_connection_without_a_request_ends(tmp_path: Path, certificate: Certificate, says: str) -> None:
    """What keeps an idle HTTP/1.1 connection from staying keeps this one, whatever frames come."""
    async with serving(tmp_path, certificate, keep_alive_s=0.3) as running:
        async with connected(running, certificate) as client, trio.open_nursery() as nursery:

            async def talk() -> None:
                while says == "pings":
                    client.h2.ping(b"12345678")
                    await client.flush()
                    await trio.sleep(0.05)

            if says == "half a head":
                await client.stream.send_all(b"\x00\x00\x04\x01\x00\x00\x00\x00\x01\x82\x84\x87\x41")
            elif says == "a reset":
                client.h2.send_headers(1, POST)
                client.h2.reset_stream(1)
                await client.flush()
            nursery.start_soon(ignoring_the_end, talk)
            await client.until_closed()
            nursery.cancel_scope.cancel()
        await eventually(gone(running), "the connection has ended")


async def ignoring_the_end(talk: Callable[[], Awaitable[None]]) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await talk()


async def test_a_client_that_closes_with_its_window_shut_has_gone(tmp_path: Path, certificate: Certificate) -> None:
    """Hypercorn's task would wait for the window for ever, and the socket stay in CLOSE-WAIT."""
    async with serving(tmp_path, certificate) as running:
        async with connected(running, certificate, window=0) as client:
            client.h2.send_headers(1, GET, end_stream=True)
            await client.flush()
            await client.until(h2.events.ResponseReceived)
        await eventually(gone(running), "the connection has ended")


async def test_a_client_that_keeps_its_window_shut_is_cut_off(tmp_path: Path, certificate: Certificate) -> None:
    async with serving(tmp_path, certificate, write_s=0.3) as running:
        async with connected(running, certificate, window=0) as client:
            client.h2.send_headers(1, GET, end_stream=True)
            await client.flush()
            await client.until_closed()
        await eventually(gone(running), "the connection has ended")


@pytest.mark.parametrize("says", ["a ping", "an octet of window"])
async def test_a_client_that_only_seems_to_read_is_cut_off(tmp_path: Path, certificate: Certificate, says: str) -> None:
    """What the server has to answer is no progress, and an octet at a time is none to speak of."""
    async with serving(tmp_path, certificate, write_s=0.3) as running:
        async with connected(running, certificate, window=0) as client, trio.open_nursery() as nursery:
            client.h2.send_headers(1, GET, end_stream=True)
            await client.flush()
            await client.until(h2.events.ResponseReceived)

            async def talk() -> None:
                while True:
                    if says == "a ping":
                        client.h2.ping(b"12345678")
                    else:
                        client.h2.increment_flow_control_window(1, 1)
                    await client.flush()
                    await trio.sleep(0.05)

            nursery.start_soon(ignoring_the_end, talk)
            await client.until_closed()
            nursery.cancel_scope.cancel()
        await eventually(gone(running), "the connection has ended")


async def test_cutting_off_a_client_whose_data_nobody_takes_leaves_the_listener(
    tmp_path: Path, certificate: Certificate
) -> None:
    """The connection waits inside of Hypercorn then, and a `Cancelled` that left it would end all listening."""
    async with serving(tmp_path, certificate, write_s=0.3) as running:
        async with connected(running, certificate, window=0) as client:
            client.h2.send_headers(1, POST)
            await client.flush()
            await client.until(h2.events.ResponseReceived)
            for _ in range(50):
                client.h2.send_data(1, b"x")
            await client.flush()
            await client.until_closed()
        await eventually(gone(running), "the connection has ended")
        async with connected(running, certificate) as another:
            assert await another.status(1) == "200"


async def test_priorities_of_any_number_of_streams_end_nothing(tmp_path: Path, certificate: Certificate) -> None:
    """RFC 9113 section 5.3.2: they may be ignored. Hypercorn would keep each, and end the connection over 1,000."""
    async with serving(tmp_path, certificate) as running, connected(running, certificate) as client:
        for stream_id in range(101, 3101, 2):
            client.h2.prioritize(stream_id, weight=16)
        assert await client.status(1) == "200"


async def test_a_body_behind_an_early_answer_disturbs_nobody(tmp_path: Path, certificate: Certificate) -> None:
    """A refusal comes before the body; Hypercorn would look up a stream that is over, and end all."""
    async with serving(tmp_path, certificate) as running, connected(running, certificate) as client:
        client.h2.send_headers(1, POST)
        await client.flush()
        await client.until(h2.events.ResponseReceived)
        client.h2.send_data(1, b"late")
        client.h2.send_data(1, b"later", end_stream=True)
        assert await client.status(3) == "200"


CONNECT = [(":method", "CONNECT"), (":authority", "localhost")]
TUNNELS = {"plain": CONNECT, "websocket": [*GET[1:], CONNECT[0], (":protocol", "websocket")]}


@pytest.mark.parametrize("what", TUNNELS)
async def test_a_websocket_is_not_offered_and_who_asks_for_one_is_sent_to_http1(
    tmp_path: Path, certificate: Certificate, what: str
) -> None:
    """RFC 8441 section 3, RFC 9113 section 7; those of HTTP/1.1 have bounds. Other streams go on."""
    async with serving(tmp_path, certificate) as running, connected(running, certificate) as client:
        client.h2.config.validate_outbound_headers = False
        await client.until(h2.events.RemoteSettingsChanged)
        assert client.h2.remote_settings.enable_connect_protocol == 0
        client.h2.send_headers(1, TUNNELS[what])
        await client.flush()
        reset = await client.until(h2.events.StreamReset)
        assert reset.error_code == h2.errors.ErrorCodes.HTTP_1_1_REQUIRED
        assert await client.status(3) == "200"


BROKEN = {
    "an unknown pseudo-header": [*GET, (":odd", "x")],
    "a pseudo-header twice": [*GET, (":path", "/")],
    "no method": GET[1:],
    "too many headers": [*GET, *[("x-many", "a")] * 2_000],
    "no path": [GET[0], *GET[2:]],
    "a path that is not ASCII": [(name, "/\u00e9" if name == ":path" else value) for name, value in GET],
    "a frame where none may be": [],
}


@pytest.mark.parametrize("what", BROKEN)
async def test_what_is_no_request_ends_the_connection_with_one_line_in_the_log(
    tmp_path: Path, certificate: Certificate, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Logs: whatever a server refuses has a line, with the address and the reason, and never a traceback."""
    async with serving(tmp_path, certificate) as running:
        async with connected(running, certificate) as client:
            client.h2.config.validate_outbound_headers = False
            if BROKEN[what]:
                client.h2.send_headers(1, BROKEN[what], end_stream=True)
                await client.flush()
            else:
                await client.stream.send_all(b"\x00\x00\x01\x00\x00\x00\x00\x00\x00x")
            await client.until_closed()
        await eventually(gone(running), "the connection has ended")
        running.parts.logs.flush(5)
        lines = [line.decode() for line in running.lines if b"protocol_error" in line]
    assert len(lines) == 1
    assert 'detail="HTTP/2: ' in lines[0]
    assert "client=127.0.0.1" in lines[0]
    assert "a connection failed" not in caplog.text
