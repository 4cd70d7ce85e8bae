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
from collections.abc import AsyncIterable, Mapping
from typing import Any, Final

import httpx
import trio

from mcpd.drivers.elasticsearch.options import Options
from mcpd.drivers.elasticsearch.tls import AuthorityFound, close_given_up
from mcpd.drivers.elasticsearch_api import Answer
from mcpd.drivers.elasticsearch_errors import Garbled, OutcomeUnknown, Refused, Unreachable

CLOSE_S: Final = 1.0
KEEP_ALIVE_S: Final = 60.0
"""Idle connections are closed before firewalls forget them. Elasticsearch itself closes none."""

Headers = list[tuple[bytes, bytes]]
_REASON_CHARS: Final = 200


class Transport:
    """Connections to one node; closed by `aclose`, or by `retire` as soon as no exchange is left on them."""

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
        if tls is not None:
            close_given_up(self._http)
        self._prefix = url.raw_path.rstrip(b"/")
        self._headers = _fixed_headers(url, options)
        self._timeout = {"connect": options.connect_s, "read": options.silence_s, "write": options.silence_s}
        self._max_answer_bytes = options.max_answer_bytes
        self._in_flight = 0
        self._retired = False

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
        self._in_flight += 1
        try:
            return await self._exchange(request)
        except httpx.TransportError as error:
            if not _is_first_of_authority(error):
                raise _translated(error) from None
        except trio.Cancelled:
            with trio.move_on_after(CLOSE_S, shield=True):
                await self._drop_lost()
            raise
        finally:
            self._in_flight -= 1
            if self._retired and not self._in_flight:
                with trio.move_on_after(CLOSE_S, shield=True):
                    await self._http.aclose()
        return await self.exchange(method, target, headers, body)

    async def _exchange(self, request: httpx.Request) -> Answer:
        response = await self._http.handle_async_request(request)
        try:
            headers = _headers(response.headers.raw)
            self._check(headers)
            return Answer(response.status_code, headers, await self._read(response.stream))
        finally:
            await response.stream.aclose()  # type: ignore[union-attr]

    async def _drop_lost(self) -> None:
        """Close connections that nobody has and that are not idle.

        httpcore 1.0.9 leaves one in its pool, open and never used again, when its caller is cancelled between the
        handshake and the first byte; only its own lists tell.
        """
        pool: Any = self._http._pool  # noqa: SLF001 - see above
        taken = [request.connection for request in pool._requests]  # noqa: SLF001 - see above
        for connection in pool.connections:
            if not (connection in taken or connection.is_idle() or connection.is_closed()):
                pool._connections.remove(connection)  # noqa: SLF001 - see above
                await connection.aclose()

    def _check(self, headers: Mapping[str, str]) -> None:
        if headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
            raise Garbled("the answer is compressed, which was not asked for")
        announced = headers.get("content-length", "0")
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

    async def retire(self) -> None:
        """Close all connections as soon as no exchange is left on them."""
        self._retired = True
        if not self._in_flight:
            await self._http.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()


def _fixed_headers(url: httpx.URL, options: Options) -> Headers:
    found = [(b"host", url.netloc), (b"accept", b"application/json"), (b"accept-encoding", b"identity")]
    found += [(b"user-agent", options.user_agent.encode())]
    authorization = options.authorization()
    return [*found, (b"authorization", authorization.encode())] if authorization else found


def _headers(raw: Headers) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for name_bytes, value_bytes in raw:
        name, value = name_bytes.decode("latin-1").lower(), value_bytes.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def userinfo(text: str) -> tuple[str, str] | None:
    """Return the user and the password in the URL of a node, None where it has no user. Raises: Refused."""
    url = _url(text)
    return (url.username, url.password) if url.username else None


def _url(text: str) -> httpx.URL:
    try:
        return httpx.URL(text)
    except (httpx.InvalidURL, UnicodeError):
        raise Refused("This is no URL of an Elasticsearch node") from None


def parse(text: str) -> httpx.URL:
    """Return the address of a node, without user and password. Raises: Refused, without any part of it."""
    url = _url(text).copy_with(username=None, password=None)
    if url.scheme not in ("http", "https") or not url.host or any(byte in b" %[" for byte in url.raw_host):
        raise Refused("The URL of an Elasticsearch node begins with http:// or https:// and names a host")
    if url.query or url.fragment:
        raise Refused("The URL of an Elasticsearch node has no ?query and no #fragment here")
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
    tls = _of_tls(error)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return f"TLS: {tls.verify_message}"
    if tls is not None:
        return f"TLS: {tls.args[-1]}"
    return str(error)[:_REASON_CHARS] or type(error).__name__


def _of_tls(error: BaseException) -> ssl.SSLError | None:
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, ssl.SSLError):
        inner = inner.__cause__ or inner.__context__
    return inner


def _is_first_of_authority(error: httpx.TransportError) -> bool:
    """Return whether this handshake has only found whom to trust. It happens once, before anything is sent."""
    return isinstance(_of_tls(error), AuthorityFound)


_TABLE: Final[tuple[tuple[type[httpx.TransportError], type[Unreachable | OutcomeUnknown | Refused], str], ...]] = (
    (httpx.LocalProtocolError, Refused, "the request cannot be sent as it is"),
    (httpx.UnsupportedProtocol, Refused, "the address must begin with http:// or https://"),
    (httpx.ConnectTimeout, Unreachable, "no connection in time"),
    (httpx.ConnectError, Unreachable, ""),
    (httpx.ReadTimeout, OutcomeUnknown, "the node fell silent"),
    (httpx.WriteTimeout, OutcomeUnknown, "the node takes no more of the request"),
)
"""Kind, what it means, and what to say; "" is the library's own text, where it is known to hold no secret."""
