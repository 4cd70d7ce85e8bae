"""The HTTP client against a real server: bounds in time and size, redirects, cancellation, errors without secrets."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest
import trio

from mcpd.drivers.http import MAX_CONNECTIONS, HttpClient, HttpError, Unreachable, open_http
from tests.drivers.scripted import HOLD, Answer, Asked, Raw, Script, Silence, serving

WAIT_S = 10.0
"""Nothing here takes longer; what does has failed."""


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    with trio.fail_after(WAIT_S):
        async with open_http(reply_s=5.0, max_reply_bytes=1000) as opened:
            yield opened


def saying(*answers: Answer | Raw | Silence) -> Script:
    """Return a script of these answers, the last one for ever."""
    following = itertools.chain(answers, itertools.repeat(answers[-1]))

    async def script(asked: Asked) -> Answer | Raw | Silence:
        return next(following)

    return script


async def test_a_reply_comes_whole_with_its_headers_in_lower_case(client: HttpClient) -> None:
    async with serving(saying(Answer(404, b"no such", (("X-Why", "gone"),)))) as server:
        reply = await client.request("POST", f"{server.url}/a?b=c", headers={"x-own": "1"}, body=b"question")
    assert (reply.status, reply.body, reply.headers["x-why"]) == (404, b"no such", "gone")
    asked = server.asked[0]
    assert (asked.method, asked.target, asked.body) == ("POST", "/a?b=c", b"question")
    assert asked.headers["x-own"] == "1"
    assert asked.headers["accept-encoding"] == "identity"


async def test_a_connection_is_used_again_after_a_whole_exchange(client: HttpClient) -> None:
    async with serving(saying(Answer(body=b"x"))) as server:
        for _ in range(3):
            await client.request("GET", server.url)
        assert server.opened == 1


async def test_nobody_listening_is_unreachable(client: HttpClient, free_port: int) -> None:
    with pytest.raises(Unreachable):
        await client.request("GET", f"http://127.0.0.1:{free_port}/")


async def test_a_silent_server_is_unreachable_after_the_time_for_a_reply_and_its_socket_is_closed() -> None:
    with trio.fail_after(WAIT_S):
        async with serving(saying(HOLD)) as server, open_http(reply_s=0.05, max_reply_bytes=10) as client:
            with pytest.raises(Unreachable, match=r"within 0\.05 s"):
                await client.request("GET", server.url)
            await server.wait_closed(1)


async def test_a_trickling_server_does_not_hold_the_client_longer_than_that() -> None:
    trickle = Answer(pieces=itertools.repeat(b".", 900), pause_s=0.02)
    with trio.fail_after(WAIT_S):
        async with serving(saying(trickle)) as server, open_http(reply_s=0.2, max_reply_bytes=1000) as client:
            with pytest.raises(Unreachable):
                await client.request("GET", server.url)
            await server.wait_closed(1)


async def test_a_cancelled_exchange_closes_its_socket_and_the_next_one_opens_another(client: HttpClient) -> None:
    async with serving(saying(HOLD, Answer(body=b"second"))) as server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.request, "GET", server.url)
            await server.wait_asked(1)
            nursery.cancel_scope.cancel()
        await server.wait_closed(1)
        assert (await client.request("GET", server.url)).body == b"second"
        assert server.opened == 2


class CancelsAtStep(trio.abc.Instrument):
    """Cancels `scope` when its task has been run for the n-th time."""

    def __init__(self, scope: trio.CancelScope, at: int) -> None:
        self._scope = scope
        self._task = trio.lowlevel.current_task()
        self.left = at

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self.left -= 1
            if self.left == 0:
                self._scope.cancel()


async def cut_at(client: HttpClient, url: str, at: int) -> bool:
    """Ask, cancelled at the n-th step; return whether there are so many."""
    with trio.CancelScope() as scope:
        cancelling = CancelsAtStep(scope, at)
        trio.lowlevel.add_instrument(cancelling)
        await client.request("GET", url)
    trio.lowlevel.remove_instrument(cancelling)
    return cancelling.left <= 0


@pytest.mark.parametrize("is_kept", [False, True], ids=["new connection", "kept connection"])
async def test_an_exchange_cancelled_at_any_step_harms_no_later_one(is_kept: bool) -> None:
    """No later exchange gets the answer of a cancelled one, and no place of the pool is lost."""
    waiting: set[str] = set()
    together = trio.Event()

    async def echo(asked: Asked) -> Answer:
        if asked.target.startswith("/together"):
            waiting.add(asked.target)
            if len(waiting) == MAX_CONNECTIONS:
                together.set()
            await together.wait()
        return Answer(pieces=[asked.target.encode(), b" in ", b"pieces"])

    async def ask(client: HttpClient, path: str) -> None:
        assert (await client.request("GET", server.url + path)).body == f"{path} in pieces".encode()

    with trio.fail_after(3 * WAIT_S):
        async with serving(echo) as server:
            for at in itertools.count(1):
                async with open_http(reply_s=5.0, max_reply_bytes=1000) as client:
                    if is_kept:
                        await ask(client, "/before")
                    was_cut = await cut_at(client, f"{server.url}/cut", at)
                    for n in range(2):
                        await ask(client, f"/after{n}")
                    waiting, together = set(), trio.Event()
                    async with trio.open_nursery() as nursery:
                        for n in range(MAX_CONNECTIONS):
                            nursery.start_soon(ask, client, f"/together{n}")
                if not was_cut:
                    break
    assert at > 5


async def test_leaving_the_client_closes_idle_connections_even_when_cancelled() -> None:
    with trio.fail_after(WAIT_S):
        async with serving(saying(Answer(body=b"x"))) as server:
            with trio.CancelScope() as scope:
                async with open_http(reply_s=5.0, max_reply_bytes=10) as client:
                    await client.request("GET", server.url)
                    scope.cancel()
            await server.wait_closed(1)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(body=b"x" * 1001),
        Answer(pieces=[b"x" * 600, b"y" * 600]),
        Answer(pieces=itertools.repeat(b"x" * 600)),
    ],
    ids=["announced", "chunked", "endless"],
)
async def test_a_reply_beyond_the_bound_is_refused_and_its_connection_closed(
    client: HttpClient, answer: Answer
) -> None:
    async with serving(saying(answer)) as server:
        with pytest.raises(HttpError, match="more than 1000 bytes") as caught:
            await client.request("GET", server.url)
        assert not isinstance(caught.value, Unreachable)
        await server.wait_closed(1)


async def test_a_reply_of_just_the_bound_is_taken(client: HttpClient) -> None:
    async with serving(saying(Answer(pieces=[b"x" * 500] * 2))) as server:
        assert len((await client.request("GET", server.url)).body) == 1000


async def test_a_compressed_reply_is_refused(client: HttpClient) -> None:
    async with serving(saying(Answer(body=b"?", headers=(("content-encoding", "gzip"),)))) as server:
        with pytest.raises(HttpError, match="gzip"):
            await client.request("GET", server.url)


@pytest.mark.parametrize("data", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab"])
async def test_what_is_no_reply_or_half_of_one_is_unreachable(client: HttpClient, data: bytes) -> None:
    async with serving(saying(Raw(data))) as server:
        with pytest.raises(Unreachable):
            await client.request("GET", server.url)


@pytest.mark.parametrize(("method", "status"), [("GET", 301), ("GET", 302), ("GET", 307), ("POST", 307), ("POST", 308)])
async def test_a_redirect_within_the_origin_is_followed_with_method_and_body(
    client: HttpClient, method: str, status: int
) -> None:
    moved = Answer(status, headers=(("location", "/there"),))
    async with serving(saying(moved, Answer(body=b"found"))) as server:
        reply = await client.request(method, f"{server.url}/here", body=b"b" if method == "POST" else b"")
    assert reply.body == b"found"
    assert [(asked.method, asked.target) for asked in server.asked] == [(method, "/here"), (method, "/there")]
    assert server.asked[1].body == server.asked[0].body


async def test_a_post_is_not_turned_into_a_get_by_a_redirect(client: HttpClient) -> None:
    async with serving(saying(Answer(302, headers=(("location", "/there"),)))) as server:
        assert (await client.request("POST", server.url, body=b"b")).status == 302
    assert len(server.asked) == 1


async def test_a_redirect_to_another_host_is_not_followed(client: HttpClient) -> None:
    async with serving(saying(Answer(body=b"taken"))) as stranger:
        away = Answer(307, headers=(("location", stranger.url),))
        async with serving(saying(away)) as server:
            with pytest.raises(HttpError, match="another host"):
                await client.request("GET", server.url, headers={"authorization": "Bearer secret"})
        assert stranger.opened == 0


async def test_redirects_without_end_are_given_up(client: HttpClient) -> None:
    async with serving(saying(Answer(307, headers=(("location", "/again"),)))) as server:
        with pytest.raises(HttpError, match="redirects"):
            await client.request("GET", server.url)
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    "url", ["ftp://host/x", "host/x", "http://[x", "http://host:port/", "http://a b/", "http://a..b/"]
)
async def test_what_is_no_address_is_said_to_be_none(client: HttpClient, url: str) -> None:
    with pytest.raises(HttpError):
        await client.request("GET", url)


async def test_an_error_does_not_repeat_a_secret_header(client: HttpClient) -> None:
    async with serving(saying(Answer())) as server:
        with pytest.raises(HttpError) as caught:
            await client.request("GET", server.url, headers={"authorization": "Bearer secret\n"})
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port}")
    with trio.fail_after(WAIT_S):
        async with serving(saying(Answer(body=b"x"))) as server, open_http(reply_s=5, max_reply_bytes=10) as client:
            assert (await client.request("GET", server.url)).body == b"x"
