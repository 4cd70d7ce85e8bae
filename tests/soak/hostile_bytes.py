"""Bytes that are no sound HTTP or WebSocket, by name, and the few sound heads that the raw roles need.

`OPENINGS` are sent on a connection of their own, after which the attacker either listens or stays silent. Nothing here
touches a socket.

Sources: RFC 9112 sections 2, 3, 6, 11.2; RFC 9113 section 3.4; RFC 6455 sections 4, 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
NO_SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
NO_WINDOW = b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00"
CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2
MASK = b"\x00\x00\x00\x00"
"""Leaves a payload as it is."""


def _fields(headers: Mapping[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


def post_head(port: int, length: int, headers: Mapping[str, str]) -> bytes:
    """Return the head of a POST to `/mcp`."""
    usual = {"host": f"127.0.0.1:{port}", "content-type": "application/json", "content-length": str(length)}
    accept = {"accept": "application/json, text/event-stream"}
    return f"POST /mcp HTTP/1.1\r\n{_fields({**usual, **accept, **headers})}\r\n".encode()


def upgrade_head(port: int, headers: Mapping[str, str], line: str = "GET /ws HTTP/1.1") -> bytes:
    """Return the head that asks for a WebSocket."""
    usual = {"host": f"127.0.0.1:{port}", "upgrade": "websocket", "connection": "Upgrade"}
    proof = {"sec-websocket-key": KEY, "sec-websocket-version": "13"}
    return f"{line}\r\n{_fields({**usual, **proof, **headers})}\r\n".encode()


def client_frame(payload: bytes, first: int = 0x81) -> bytes:
    """Return a masked frame; `first` holds its FIN bit and opcode."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65536:
        length = b"\xfe" + size.to_bytes(2)
    else:
        length = b"\xff" + size.to_bytes(8)
    return bytes([first]) + length + MASK + payload


def _request(line: str, *fields: str, body: bytes = b"") -> Callable[[int], bytes]:
    def make(port: int) -> bytes:
        head = "".join(f"{field}\r\n" for field in (f"Host: 127.0.0.1:{port}", *fields))
        return f"{line}\r\n{head}\r\n".encode("latin-1") + body

    return make


_POST = "POST /mcp HTTP/1.1"
_JSON = "Content-Type: application/json"
_CHUNKED = "Transfer-Encoding: chunked"
_PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
_H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")

OPENINGS: dict[str, Callable[[int], bytes]] = {
    "preface": lambda _: PREFACE,
    "preface and settings": lambda _: PREFACE + NO_SETTINGS,
    "preface and no window": lambda _: (
        PREFACE + NO_WINDOW + b"\x00\x00\x05\x01\x05\x00\x00\x00\x01\x82\x84\x86\x41\x00"
    ),
    "PRI of HTTP/1.1": _request("PRI / HTTP/1.1"),
    "PRI star of HTTP/1.1": _request("PRI * HTTP/1.1"),
    "upgrade to h2c": _request("GET /healthz HTTP/1.1", *_H2C),
    "POST offers h2c": _request(_POST, *_H2C, _JSON, f"Content-Length: {len(_PING)}", body=_PING),
    "length and chunks": _request(
        _POST, _JSON, "Content-Length: 5", _CHUNKED, body=b"0\r\n\r\nGET /healthz HTTP/1.1\r\n"
    ),
    "two lengths": _request(_POST, _JSON, "Content-Length: 5", "Content-Length: 6", body=b"abcdef"),
    "length of digits": _request(_POST, _JSON, "Content-Length: " + "9" * 5000),
    "negative length": _request(_POST, _JSON, "Content-Length: -1"),
    "length of 10 GB": _request(_POST, _JSON, "Content-Length: 10000000000", body=b"{}"),
    "expects 100": _request(_POST, _JSON, "Content-Length: 5", "Expect: 100-continue"),
    "broken chunks": _request(_POST, _JSON, _CHUNKED, body=b"zz\r\n"),
    "chunk of 2**64": _request(_POST, _JSON, _CHUNKED, body=b"10000000000000000\r\n"),
    "chunk extensions": _request(_POST, _JSON, _CHUNKED, body=b"1;" + b"a" * 60_000),
    "chunks of one byte": _request(_POST, _JSON, _CHUNKED, body=b"1\r\na\r\n" * 20_000),
    "trailers": _request(_POST, _JSON, _CHUNKED, body=b"0\r\n" + b"a: b\r\n" * 10_000),
    "gzip": _request(_POST, _JSON, "Content-Encoding: gzip", "Content-Length: 4", body=b"\x1f\x8b\x08\x00"),
    "encoded transfer": _request(_POST, _JSON, "Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "head of 60 KB": _request("GET /healthz HTTP/1.1", "X: " + "x" * 60_000),
    "head of 2 MB": _request("GET /healthz HTTP/1.1", *["X: " + "x" * 1000] * 2000),
    "10,000 fields": _request("GET /healthz HTTP/1.1", *["a: b"] * 10_000),
    "URI of 100 KB": _request("GET /" + "u" * 100_000 + " HTTP/1.1"),
    "query of 30 KB": _request("GET /healthz?" + "a=b&" * 7_000 + " HTTP/1.1"),
    "absolute target": _request("GET http://example.com/healthz HTTP/1.1"),
    "authority target": _request("CONNECT example.com:443 HTTP/1.1"),
    "lower-case method": _request("get /healthz HTTP/1.1"),
    "HTTP/9.9": _request("GET /healthz HTTP/9.9"),
    "HTTP/0.9": lambda _: b"GET /healthz\r\n",
    "no Host": lambda _: b"GET /healthz HTTP/1.1\r\n\r\n",
    "zero byte": _request("GET /healthz HTTP/1.1", "X: a\x00b"),
    "bare CR": _request("GET /healthz HTTP/1.1", "X: a\rY: b"),
    "folded field": _request("GET /healthz HTTP/1.1", "X: a", " b"),
    "space before colon": _request("GET /healthz HTTP/1.1", "X : a"),
    "blank lines": lambda _: b"\r\n" * 10_000,
    "noise": lambda _: bytes(range(256)) * 200,
    "TLS": lambda _: CLIENT_HELLO,
    "pipeline": lambda port: _request("GET /healthz HTTP/1.1")(port) * 200,
    "pipeline behind a call": lambda port: (
        _request(_POST, _JSON, f"Content-Length: {len(_PING)}", body=_PING)(port) * 50
    ),
    "event number of digits": _request(
        "GET /mcp HTTP/1.1", "Accept: text/event-stream", "Last-Event-ID: " + "9" * 20_000, "Mcp-Session-Id: x"
    ),
    "session of 20 KB": _request(_POST, _JSON, "Mcp-Session-Id: " + "s" * 20_000, "Content-Length: 2", body=b"{}"),
    "half a line": lambda _: b"GET /hea",
    "half a head": lambda port: _request("GET /healthz HTTP/1.1")(port)[:-2],
    "half a body": _request(_POST, _JSON, "Content-Length: 1000", body=b'{"jsonrpc'),
    "WebSocket without key": _request("GET /ws HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket"),
    "WebSocket on HTTP/1.0": lambda port: upgrade_head(port, {}, "GET /ws HTTP/1.0"),
    "WebSocket with extensions": lambda port: upgrade_head(
        port, {"sec-websocket-extensions": "permessage-deflate; " * 500}
    ),
}
"""Name -> what is sent to this port, before the attacker waits."""

FRAMES: dict[str, bytes] = {
    "100,000 empty continuations": client_frame(b"{", 0x01) + client_frame(b"", 0x00) * 100_000,
    "20,000 small continuations": client_frame(b"{", 0x01) + client_frame(b" ", 0x00) * 20_000,
    "frame of 2**62": b"\x81\xff" + (2**62).to_bytes(8) + MASK + b"{",
    "message of 5 MB": client_frame(b"x" * 5_000_000),
    "not masked": b"\x81\x02{}",
    "reserved bits": client_frame(b"{}", 0xF1),
    "reserved opcode": client_frame(b"{}", 0x83),
    "continuation of nothing": client_frame(b"{}", 0x80),
    "text within text": client_frame(b"{", 0x01) + client_frame(b"}", 0x81),
    "not UTF-8": client_frame(b"\xff\xfe"),
    "binary": client_frame(b"\x00\x01\x02", 0x82),
    "long ping": client_frame(b"x" * 200, 0x89),
    "broken ping": client_frame(b"x", 0x09),
    "3,000 pings": client_frame(b"ping", 0x89) * 3_000,
    "3,000 pongs": client_frame(b"pong", 0x8A) * 3_000,
    "close of one byte": client_frame(b"\x03", 0x88),
    "close with a bad code": client_frame((65535).to_bytes(2), 0x88),
    "frames after close": client_frame((1000).to_bytes(2), 0x88) + client_frame(b"{}") * 1000,
    "2,000 empty messages": client_frame(b"") * 2_000,
    "2,000 broken messages": client_frame(b"{") * 2_000,
    "half a frame": b"\x81\xfe\x10",
    "TLS": CLIENT_HELLO,
}
"""Name -> what is sent on a WebSocket, before the attacker waits."""
