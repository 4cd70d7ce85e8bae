"""The connections to one node, and one exchange on one of them: the only file of this package that imports httpx.

Called by: `client`. Deliberately not: what a status means, retries, which node.

Laws
- An exchange that did not end in order closes its connection: cancelled, cut, too long (law 6). On a search that is
  what tells the node to stop.
- An answer has at most `max_answer_bytes`. Compressed answers are not asked for and not taken: a small one can be huge.
- Redirects are not followed, nothing is read from the environment, and no error has a header or a body in it.
- Who could not connect is told Unreachable; once bytes may have left, it is OutcomeUnknown.

It talks to httpx's transport, below its client: cookies, redirects, proxies and authentication flows are not wanted,
and cost as much as all that is done here.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterable
from typing import Any, Final

import httpx
import trio

from mcpd.drivers.elasticsearch.options import Options
from mcpd.drivers.elasticsearch_api import Answer
from mcpd.drivers.elasticsearch_errors import Garbled, OutcomeUnknown, Refused, Unreachable

KEEP_ALIVE_S: Final = 60.0
"""Idle connections are closed before firewalls forget them. Elasticsearch itself closes none."""

DEFAULT_PORT: Final = 9200
Headers = list[tuple[bytes, bytes]]
_REASON_CHARS: Final = 200


class Transport:
    """Connections to one node. Made by `connect_to`, closed by `aclose`."""

    def __init__(self, url: httpx.URL, tls: ssl.SSLContext | None, options: Options) -> None:
        self.url = url
        self._http = httpx.AsyncHTTPTransport(
            verify=tls if tls is not None else False,
            trust_env=False,
            limits=httpx.Limits(
                max_connections=None,
                max_keepalive_connections=options.max_exchanges,
                keepalive_expiry=KEEP_ALIVE_S,
            ),
        )
        self._prefix = url.raw_path.rstrip(b"/")
        self._headers = _fixed_headers(url, options)
        self._timeout = {"connect": options.connect_s, "read": options.silence_s, "write": options.silence_s}
        self._max_answer_bytes = options.max_answer_bytes

    async def exchange(self, method: str, target: str, headers: Headers, body: bytes) -> Answer:
        """Send one request and return its whole answer, whatever its status.

        Raises: Unreachable, OutcomeUnknown, Refused (it cannot be sent as it is), Garbled.
        Cancellation: closes the connection.
        """
        request = httpx.Request(
            method,
            self.url,
            headers=[*self._headers, (b"content-length", b"%d" % len(body)), *headers],
            stream=httpx.ByteStream(body),
            extensions={"timeout": self._timeout, "target": self._prefix + target.encode()},
        )
        try:
            response = await self._http.handle_async_request(request)
            try:
                self._check(response)
                found = await self._read(response.stream)
            finally:
                await response.stream.aclose()  # type: ignore[union-attr]
        except httpx.TransportError as error:
            raise _translated(error) from None
        return Answer(response.status_code, response.headers, found)

    def _check(self, response: httpx.Response) -> None:
        coding = response.headers.get("content-encoding", "identity").strip().lower()
        if coding not in {"", "identity"}:
            raise Garbled("the answer is compressed, which was not asked for")
        announced = response.headers.get("content-length", "0")
        if announced.isdecimal() and len(announced) < 20 and int(announced) > self._max_answer_bytes:
            raise self._too_long()

    async def _read(self, stream: Any) -> bytes:
        """Return the body. One that is too long is cancelled: only so do all the library's generators end in order."""
        body = bytearray()
        pieces: AsyncIterable[bytes] = stream
        with trio.CancelScope() as excess:
            async for piece in pieces:
                body += piece
                if len(body) > self._max_answer_bytes:
                    excess.cancel()
        if len(body) > self._max_answer_bytes:
            raise self._too_long()
        return bytes(body)

    def _too_long(self) -> Garbled:
        return Garbled(f"the answer has more than {self._max_answer_bytes} bytes")

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()


def _fixed_headers(url: httpx.URL, options: Options) -> Headers:
    found = [(b"host", url.netloc), (b"accept", b"application/json"), (b"accept-encoding", b"identity")]
    found += [(b"user-agent", options.user_agent.encode())]
    authorization = options.authorization()
    return [*found, (b"authorization", authorization.encode())] if authorization else found


def parse(text: str) -> httpx.URL:
    """Return the address of a node. Raises: Refused, without any part of it: it may hold a password."""
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, UnicodeError):
        raise Refused("This is no URL of an Elasticsearch node") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise Refused("The URL of an Elasticsearch node begins with http:// or https:// and names a host")
    if url.query or url.fragment:
        raise Refused("The URL of an Elasticsearch node has no ?query and no #fragment here")
    if url.port is None and "://" in text and ":" not in url.netloc.decode().rpartition("]")[2]:
        return url.copy_with(port=DEFAULT_PORT)
    return url


def _translated(error: httpx.TransportError) -> Unreachable | OutcomeUnknown | Refused:
    """Return what an error of the library means: the one table of this driver."""
    text = _text(error)
    for kind, means, say in _TABLE:
        if isinstance(error, kind):
            return means(say or text)
    return OutcomeUnknown(text)


def _text(error: BaseException) -> str:
    """Return what happened, with the reason of TLS, which the library does not repeat."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, ssl.SSLError):
            return f"TLS: {inner.verify_message if isinstance(inner, ssl.SSLCertVerificationError) else inner}"
        inner = inner.__cause__ or inner.__context__
    return str(error)[:_REASON_CHARS] or type(error).__name__


_TABLE: Final[tuple[tuple[type[httpx.TransportError], type[Unreachable | OutcomeUnknown | Refused], str], ...]] = (
    (httpx.LocalProtocolError, Refused, "the request cannot be sent as it is"),
    (httpx.UnsupportedProtocol, Refused, "the address must begin with http:// or https://"),
    (httpx.ConnectTimeout, Unreachable, "no connection in time"),
    (httpx.ConnectError, Unreachable, ""),
    (httpx.ReadTimeout, OutcomeUnknown, "the node fell silent"),
    (httpx.WriteTimeout, OutcomeUnknown, "the node takes no more of the request"),
)
"""Kind, what it means, and what to say; "" is the library's own text, where it is known to hold no secret."""
