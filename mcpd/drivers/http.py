"""An HTTP client for the few services that mcpd asks: one exchange at a time, each bounded in time and size.

Called by: adapters that were handed a client (`search.endpoint`). The only file that imports httpx. Knows nothing of
what is asked. Deliberately not: retries, which need to know whether asking twice does harm; caching; cookies.

Laws
- An exchange ends within `reply_s`, connecting included, however slowly the peer sends; the caller's own deadline may
  end it sooner. When it is cancelled its socket is closed, never used again (law 6).
- A reply has at most `max_reply_bytes`. Compressed replies are not asked for and not taken: a small one can be huge.
- What was meant for one origin goes to no other: a redirect is followed only within it, `MAX_REDIRECTS` times.
- Nothing is read from the environment: neither proxies nor a .netrc file nor certificates.
- Errors say what happened, and never contain the address, a header or the body: these may hold secrets.

Sources: RFC 9110 sections 15.4 (redirects) and 8.4 (content codings); architecture law 7.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import httpx
import trio

from mcpd.errors import SHOWN_CHARS, McpdError

CONNECT_S: Final = 5.0
"""A host that is there answers within a second or two, across an ocean too."""

KEEP_ALIVE_S: Final = 30.0
"""Idle connections are closed before usual servers do it, so that none is used that is just being closed."""

MAX_CONNECTIONS: Final = 16
MAX_REDIRECTS: Final = 3
_REASON_CHARS: Final = 200

for _chatty in ("httpx", "httpcore"):
    logging.getLogger(_chatty).setLevel(logging.WARNING)


class HttpError(McpdError):
    """The exchange gave no reply that could be used; asking again would give the same."""


class Unreachable(HttpError):
    """No reply: refused, reset, unknown name, out of time. It may work later."""


class Reply(NamedTuple):
    """What came back, whatever its status. Header names are in lower case; of repeated ones the values are joined."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpClient:
    """A pool of connections. Made and closed by `open_http`; tasks may share it."""

    def __init__(self, client: httpx.AsyncClient, *, reply_s: float, max_reply_bytes: int) -> None:
        self._client = client
        self._reply_s = reply_s
        self._max_reply_bytes = max_reply_bytes

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Reply:
        """Send one request and return its whole reply.

        Raises: Unreachable, HttpError.
        Cancellation: closes the connection; the peer may or may not have done what was asked.
        """
        with trio.move_on_after(self._reply_s):
            target = url
            for _ in range(MAX_REDIRECTS + 1):
                reply = await self._exchange(method, target, headers or {}, body)
                following = _following(method, target, reply)
                if following is None:
                    return reply
                target = following
            raise HttpError(f"more than {MAX_REDIRECTS} redirects")
        raise Unreachable(f"no answer within {self._reply_s:g} s")

    async def _exchange(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        try:
            async with self._client.stream(method, url, headers=headers, content=body) as response:
                self._check(response)
                named = {name.lower(): value for name, value in response.headers.items()}
                return Reply(response.status_code, named, await self._read(response))
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise _translated(error) from None

    def _check(self, response: httpx.Response) -> None:
        coding = response.headers.get("content-encoding", "identity").strip().lower()
        if coding not in {"", "identity"}:
            raise HttpError(f"the reply is compressed ({coding[:SHOWN_CHARS]}), which was not asked for")
        announced = response.headers.get("content-length", "0")
        if announced.isdecimal() and len(announced) < 20 and int(announced) > self._max_reply_bytes:
            raise self._too_long()

    async def _read(self, response: httpx.Response) -> bytes:
        """Return the body. One that is too long is cancelled: only so do all the library's generators end in order."""
        body = bytearray()
        with trio.CancelScope() as excess:
            async for piece in response.aiter_raw():
                body += piece
                if len(body) > self._max_reply_bytes:
                    excess.cancel()
        if len(body) > self._max_reply_bytes:
            raise self._too_long()
        return bytes(body)

    def _too_long(self) -> HttpError:
        return HttpError(f"the reply has more than {self._max_reply_bytes} bytes")


@asynccontextmanager
async def open_http(*, reply_s: float, max_reply_bytes: int, connect_s: float = CONNECT_S) -> AsyncIterator[HttpClient]:
    """Give a client whose exchanges take at most `reply_s` seconds and bring at most `max_reply_bytes`.

    Resources: all its connections are closed on leaving, also when cancelled.
    """
    async with httpx.AsyncClient(
        headers={"accept-encoding": "identity", "user-agent": "mcpd"},
        timeout=httpx.Timeout(None, connect=connect_s),
        limits=httpx.Limits(
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=MAX_CONNECTIONS,
            keepalive_expiry=KEEP_ALIVE_S,
        ),
        follow_redirects=False,
        trust_env=False,
    ) as client:
        yield HttpClient(client, reply_s=reply_s, max_reply_bytes=max_reply_bytes)


def _following(method: str, url: str, reply: Reply) -> str | None:
    """Return where a redirect goes on, None for any other reply. Raises: HttpError when it must not be followed."""
    keeps_method = reply.status in {307, 308} or (reply.status in {301, 302, 303} and method in {"GET", "HEAD"})
    if not keeps_method or "location" not in reply.headers:
        return None
    try:
        here = httpx.URL(url)
        there = here.join(reply.headers["location"])
    except httpx.InvalidURL:
        raise HttpError("a redirect to something that is no address") from None
    if _origin(there) != _origin(here):
        raise HttpError("a redirect to another host, which is not followed")
    return str(there)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _translated(error: httpx.HTTPError | httpx.InvalidURL | UnicodeError) -> HttpError:
    """Return what an error of the library means: the one table of this driver."""
    for kind, means, text in _TABLE:
        if isinstance(error, kind):
            return means(text or str(error)[:_REASON_CHARS] or type(error).__name__)
    return HttpError(type(error).__name__)


_TABLE: tuple[tuple[type[Exception], type[HttpError], str], ...] = (
    (httpx.LocalProtocolError, HttpError, "the request cannot be sent as it is"),
    (httpx.UnsupportedProtocol, HttpError, "the address must begin with http:// or https://"),
    (httpx.InvalidURL, HttpError, "that is no address"),
    (UnicodeError, HttpError, "that is no address"),
    (httpx.ConnectTimeout, Unreachable, "no connection in time"),
    (httpx.ConnectError, Unreachable, ""),
    (httpx.RemoteProtocolError, Unreachable, ""),
    (httpx.TransportError, Unreachable, ""),
)
"""Kind, what it means, and what to say; "" is the library's own text, where it is known to hold no secret."""
