"""The head of an HTTP/1.1 request: what h11 leaves open about it, and the ASGI scope it becomes.

h11 has checked syntax, Host and framing. Left are: versions and methods that are not served, absolute-form targets,
upgrades, and a Content-Length beside a Transfer-Encoding.

Called by: `gateway.server.http11`. Deliberately not: the reading of bytes, routing, access.

Laws: an `Upgrade` to anything but a WebSocket is ignored, so there is no h2c; neither is its preface a request. A
method is what was sent, letter by letter. The host of an absolute-form target replaces the Host header, so that what
access checks is what the client asked for.

Sources: RFC 9112 sections 3.2, 6.1 and 6.3; RFC 9110 sections 7.8, 9.1 and 15.6; RFC 9113 section 3.4; RFC 6455
section 4.2.1; ASGI HTTP specification 2.3.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import h11

from mcpd.gateway.asgi import Headers, Scope

_METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE"})
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#@]+)(/[^?]*)?(?:\?(.*))?")


class Head:
    """One request's head, found to be one that can be served. Raises: h11.RemoteProtocolError with the status."""

    __slots__ = ("_headers", "_request", "ambiguous", "websocket")

    def __init__(self, request: h11.Request) -> None:
        if request.http_version != b"1.1" and request.http_version[:2] != b"1.":
            raise h11.RemoteProtocolError("This version of HTTP is not served", error_status_hint=505)
        if request.method not in _METHODS:
            raise h11.RemoteProtocolError("This method is not served", error_status_hint=501)
        self._request = request
        self._headers: Headers = list(request.headers)
        named = dict(self._headers)
        chunked = b"transfer-encoding" in named
        self.ambiguous = chunked and b"content-length" in named
        """Somebody on the way may have seen another end of this request: its connection ends with the reply."""
        self.websocket = b"upgrade" in named and not chunked and self._asks_for_websocket(named)

    def _asks_for_websocket(self, named: dict[bytes, bytes]) -> bool:
        request = self._request
        able = request.method == b"GET" and request.http_version != b"1.0"
        return able and named[b"upgrade"].lower() == b"websocket" and named.get(b"content-length", b"0") == b"0"

    def scope(self, base: dict[str, Any]) -> Scope:
        """Return the ASGI scope; `base` is what it shares with the connection's other requests."""
        request = self._request
        if request.target[:1] == b"/":
            path, _, query = request.target.partition(b"?")
        else:
            path, query = self._take_absolute_target()
        return {
            **base,
            "http_version": "1.0" if request.http_version == b"1.0" else "1.1",
            "method": request.method.decode("ascii"),
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "headers": self._headers,
            "state": {},
            "extensions": {},
        }

    def _take_absolute_target(self) -> tuple[bytes, bytes]:
        target = self._request.target
        found = _ABSOLUTE.fullmatch(target)
        if found is None:
            if target == b"*" and self._request.method == b"OPTIONS":
                return target, b""
            raise h11.RemoteProtocolError("This is no target of an origin server", error_status_hint=400)
        host = (b"host", found[1].lower())
        self._headers = [host, *(header for header in self._headers if header[0] != b"host")]
        return found[2] or b"/", found[3] or b""
