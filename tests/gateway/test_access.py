"""Host, Origin, credentials, CORS and the refusal to start unguarded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mcpd.config import Config, Server
from mcpd.errors import ConfigurationError
from mcpd.gateway.access import Access, Refusal, cors, is_loopback, preflight, startup_check
from mcpd.gateway.asgi import Head
from mcpd.gateway.keys import KeyStore
from mcpd.secret import Secret
from mcpd.wire.call import ANONYMOUS, Principal


@pytest.fixture
def keys(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "keys.toml")


def head(*headers: tuple[bytes, bytes], **more: Any) -> Head:
    return Head({"type": "http", "headers": [(b"accept", b"*/*"), *headers], **more})


LOCAL = (b"host", b"localhost:8000")


def judge_host(access: Access, host: str | None) -> Refusal | None:
    """What an upgrade or a preflight with this Host is told."""
    return access.admit_anyone(head(*([] if host is None else [(b"host", host.encode("latin-1", "replace"))])))


def judge_origin(access: Access, origin: str | None) -> Refusal | None:
    """What a page of this origin is told, when it asks for the right Host."""
    sent = [] if origin is None else [(b"origin", origin.encode("latin-1", "replace"))]
    return access.admit_anyone(head(LOCAL, *sent))


@pytest.mark.parametrize(
    "host",
    ["localhost:8000", "LocalHost:8000", "127.0.0.1:8000", "[::1]:8000", "[0:0:0:0:0:0:0:1]:8000", " localhost:8000 "],
)
def test_loopback_names_with_the_listening_port_are_served(keys: KeyStore, host: str) -> None:
    """SEC-2."""
    assert judge_host(Access(Server(), keys), host) is None


@pytest.mark.parametrize(
    "host",
    [None, "", "localhost", "localhost:8001", "evil.example", "evil.example:8000", "localhost:8000@evil.example",
     "localhost.evil.example:8000", "127.0.0.1.nip.io:8000", "[::1", "[::2]:8000", "localhost:8000:8000",
     "localhost:", "localhost:08000000", "localhóst:8000", "localhost:8000,evil.example", "*"],
)  # fmt: skip
def test_any_other_host_is_misdirected(keys: KeyStore, host: str | None) -> None:
    """SEC-2: DNS rebinding stops here."""
    refusal = judge_host(Access(Server(), keys), host)
    assert refusal is not None
    assert (refusal.status, refusal.reason) == (421, "host")


def test_a_default_port_may_be_left_out(keys: KeyStore) -> None:
    """SEC-2."""
    http = Access(Server(port=80), keys)
    assert judge_host(http, "localhost") is None
    assert judge_host(http, "localhost:80") is None
    https = Access(Server(port=443, tls_cert=Path("c"), tls_key=Path("k")), keys)
    assert judge_host(https, "localhost") is None
    assert judge_host(https, "localhost:80") is not None


def test_the_ports_really_listened_on_count(keys: KeyStore) -> None:
    access = Access(Server(port=0), keys, ports=(4321, 4322))
    assert judge_host(access, "localhost:4322") is None
    assert judge_host(access, "localhost:0") is not None


def test_configured_hosts_are_served_besides_loopback(keys: KeyStore) -> None:
    """SEC-2."""
    access = Access(Server(allowed_hosts=("MCP.example", "exact.example:9000")), keys)
    assert judge_host(access, "mcp.example") is None
    assert judge_host(access, "mcp.example:12345") is None
    assert judge_host(access, "exact.example:9000") is None
    assert judge_host(access, "exact.example:9001") is not None
    assert judge_host(access, "localhost:8000") is None
    assert judge_host(Access(Server(allowed_hosts=("*",)), keys), "whatever.example") is None


def test_the_host_and_origin_of_the_public_url_are_allowed(keys: KeyStore) -> None:
    access = Access(Server(public_url="https://Mcp.example/base"), keys)
    assert judge_host(access, "mcp.example") is None
    assert judge_origin(access, "https://mcp.example") is None
    assert judge_origin(access, "http://mcp.example") is not None


def test_a_unix_socket_serves_an_empty_or_local_host(keys: KeyStore) -> None:
    access = Access(Server(bind="unix:/run/mcpd.sock"), keys)
    for host in (None, "", "localhost"):
        assert judge_host(access, host) is None
    assert judge_host(access, "evil.example") is not None


@pytest.mark.parametrize(
    "origin", [None, "http://localhost:8000", "https://127.0.0.1:8000", "http://[::1]:8000", "HTTP://LOCALHOST:8000"]
)
def test_an_absent_or_own_origin_is_fine(keys: KeyStore, origin: str | None) -> None:
    """SEC-1."""
    assert judge_origin(Access(Server(), keys), origin) is None


@pytest.mark.parametrize(
    "origin",
    ["null", "", "http://evil.example", "http://localhost", "http://localhost:8001", "localhost:8000",
     "http://localhost:8000/path", "http://localhost:8000 http://evil.example", "https://evil.example:8000",
     "file://", "http://user@localhost:8000", "chrome-extension://abcdef"],
)  # fmt: skip
def test_any_other_origin_is_forbidden(keys: KeyStore, origin: str) -> None:
    """SEC-1: null is present and not allowed."""
    refusal = judge_origin(Access(Server(), keys), origin)
    assert refusal is not None
    assert (refusal.status, refusal.reason) == (403, "origin")


def test_configured_origins_are_compared_with_default_ports_spelt_out(keys: KeyStore) -> None:
    """SEC-1."""
    access = Access(Server(allowed_origins=("https://App.example", "vscode-webview://panel")), keys)
    assert judge_origin(access, "https://app.example") is None
    assert judge_origin(access, "https://app.example:443") is None
    assert judge_origin(access, "vscode-webview://panel") is None
    assert judge_origin(access, "http://app.example") is not None
    assert judge_origin(access, "https://app.example:8443") is not None
    assert judge_origin(access, "https://sub.app.example") is not None


def test_any_origin_does_not_mean_null_unless_null_is_named(keys: KeyStore) -> None:
    """SEC-1."""
    assert judge_origin(Access(Server(allowed_origins=("*",)), keys), "https://x.example") is None
    assert judge_origin(Access(Server(allowed_origins=("*",)), keys), "null") is not None
    assert judge_origin(Access(Server(allowed_origins=("null",)), keys), "null") is None


def test_without_keys_everybody_is_anonymous(keys: KeyStore) -> None:
    access = Access(Server(), keys)
    assert access.admit(head(LOCAL)) == ANONYMOUS
    assert access.admit(head(LOCAL, (b"authorization", b"Bearer anything"))) == ANONYMOUS


def test_host_is_judged_before_origin_and_origin_before_the_key(keys: KeyStore) -> None:
    """LAD step 0."""
    keys.new("laptop")
    access = Access(Server(), keys)
    evil_host, evil_origin = (b"host", b"evil.example"), (b"origin", b"http://evil.example")
    answers = [access.admit(head(*headers)) for headers in ([evil_host, evil_origin], [LOCAL, evil_origin], [LOCAL])]
    assert [answer.status for answer in answers if isinstance(answer, Refusal)] == [421, 403, 401]


def test_a_host_or_origin_sent_twice_is_refused(keys: KeyStore) -> None:
    access = Access(Server(), keys)
    origin = (b"origin", b"http://localhost:8000")
    for headers, status in (([LOCAL, LOCAL], 421), ([LOCAL, origin, origin], 403)):
        for refusal in (access.admit(head(*headers)), access.admit_anyone(head(*headers))):
            assert isinstance(refusal, Refusal)
            assert refusal.status == status


def test_what_was_once_allowed_does_not_admit_others(keys: KeyStore) -> None:
    access = Access(Server(allowed_hosts=("a.example",)), keys)
    for port in range(1000):
        assert judge_host(access, f"a.example:{port}") is None
    assert judge_host(access, "b.example:1") is not None


def test_a_key_says_who_calls(keys: KeyStore) -> None:
    key = keys.new("laptop", ["write"]).reveal().encode()
    access = Access(Server(), keys)
    expected = Principal(keys.list()[0].id, frozenset({"read", "call", "write"}), name="laptop")
    for value in (b"Bearer " + key, b"bearer  " + key, b" BEARER " + key + b" "):
        assert access.admit(head(LOCAL, (b"authorization", value))) == expected


@pytest.mark.parametrize(
    ("headers", "status", "challenge"),
    [
        ([], 401, b"Bearer"),
        ([b"Basic dTpw"], 401, b"Bearer"),
        ([b"mcpd_key"], 401, b"Bearer"),
        ([b"Bearer"], 400, b'Bearer error="invalid_request"'),
        ([b"Bearer a b"], 400, b'Bearer error="invalid_request"'),
        ([b"Bearer a", b"Bearer a"], 400, b'Bearer error="invalid_request"'),
        ([b"Bearer wrong"], 401, b'Bearer error="invalid_token", error_description="unknown or revoked key"'),
    ],
)
def test_bad_credentials_get_the_challenge_that_fits(
    keys: KeyStore, headers: list[bytes], status: int, challenge: bytes
) -> None:
    """AUT-6 and table 4.2: header only, and no resource_metadata."""
    keys.new("laptop")
    refusal = Access(Server(), keys).admit(head(LOCAL, *((b"authorization", value) for value in headers)))
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.reason, dict(refusal.headers)) == (
        status,
        "unauthenticated",
        {b"www-authenticate": challenge},
    )


def test_a_key_in_the_query_is_not_looked_at(keys: KeyStore) -> None:
    """AUT-6: header only."""
    key = keys.new("laptop").reveal()
    asked = head(LOCAL, query_string=f"access_token={key}".encode())
    assert isinstance(Access(Server(), keys).admit(asked), Refusal)


def test_a_scope_that_is_lacking_is_named(keys: KeyStore) -> None:
    """Table 4.2: 403 with every scope needed."""
    access = Access(Server(), keys)
    assert access.require(None, "metrics") is ANONYMOUS
    key = b"Bearer " + keys.new("laptop", ["admin"]).reveal().encode()
    prober = b"Bearer " + keys.new("prober", ["metrics"]).reveal().encode()
    refusal = access.require(key, "metrics")
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.headers) == (
        403,
        ((b"www-authenticate", b'Bearer error="insufficient_scope", scope="metrics"'),),
    )
    assert isinstance(access.require(key, "write"), Principal)
    assert isinstance(access.require(prober, "metrics"), Principal)


def test_a_preflight_needs_no_key_but_an_allowed_origin(keys: KeyStore) -> None:
    """HDR-15."""
    keys.new("laptop")
    access = Access(Server(), keys)
    assert access.admit_anyone(head(LOCAL, (b"origin", b"http://localhost:8000"))) is None
    refusal = access.admit_anyone(head(LOCAL, (b"origin", b"http://evil.example")))
    assert refusal is not None
    assert refusal.status == 403


def test_a_preflight_allows_the_routing_headers_and_the_parameters_asked_for() -> None:
    """HDR-15."""
    asked = b"content-type, Mcp-Param-Region, mcp-param-zone, x-other, mcp-param-, mcp-param-a\x00b"
    answer = dict(preflight({b"origin": b"https://app.example", b"access-control-request-headers": asked}))
    assert answer[b"access-control-allow-origin"] == b"https://app.example"
    assert answer[b"vary"] == b"Origin"
    assert answer[b"access-control-allow-methods"] == b"POST, GET, DELETE, OPTIONS"
    allowed = [name.strip() for name in answer[b"access-control-allow-headers"].decode().split(",")]
    assert allowed == [
        "Content-Type", "Authorization", "MCP-Protocol-Version", "Mcp-Method", "Mcp-Name", "Mcp-Session-Id",
        "Last-Event-ID", "X-Request-Id", "traceparent", "mcp-param-region", "mcp-param-zone",
    ]  # fmt: skip


def test_replies_expose_the_headers_a_page_must_read() -> None:
    """HDR-15."""
    exposed = dict(cors(b"https://app.example"))[b"access-control-expose-headers"].decode().split(", ")
    assert {"Mcp-Session-Id", "WWW-Authenticate"} <= set(exposed)


def test_options_without_an_origin_just_names_the_methods() -> None:
    assert preflight({}) == [(b"allow", b"POST, GET, DELETE, OPTIONS")]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_starts_without_keys(keys: KeyStore, host: str) -> None:
    """SEC-3."""
    assert is_loopback(host)
    startup_check(Config(server=Server(host=host)), keys)


def test_a_unix_socket_starts_without_keys(keys: KeyStore) -> None:
    startup_check(Config(server=Server(host="0.0.0.0", bind="unix:/run/mcpd.sock")), keys)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "server.example"])
def test_a_wider_bind_needs_keys_and_names(keys: KeyStore, tmp_path: Path, host: str) -> None:
    """SEC-3."""
    with pytest.raises(ConfigurationError, match="mcpd keys new"):
        startup_check(Config(server=Server(host=host, allowed_hosts=("a.example",))), keys)
    with pytest.raises(ConfigurationError, match=r"server\.allowed_hosts"):
        startup_check(Config(server=Server(host=host, insecure=True)), keys)
    startup_check(Config(server=Server(host=host, insecure=True, allowed_hosts=("a.example",))), keys)
    guarded = KeyStore(tmp_path / "other.toml", Secret("x"))
    with pytest.raises(ConfigurationError, match=r"server\.allowed_hosts"):
        startup_check(Config(server=Server(host=host)), guarded)
    startup_check(Config(server=Server(host=host, allowed_hosts=("a.example",))), guarded)
    startup_check(Config(server=Server(host=host, public_url="https://a.example")), guarded)


@pytest.mark.parametrize(
    "server",
    [
        Server(allowed_hosts=("http://a.example",)),
        Server(allowed_origins=("a.example",)),
        Server(allowed_origins=("https://a.example/path",)),
        Server(public_url="https:///path"),
        Server(trusted_proxies=("proxy.example",)),
    ],
)
def test_a_malformed_entry_is_found_at_start(keys: KeyStore, server: Server) -> None:
    with pytest.raises(ConfigurationError, match=r"server\."):
        startup_check(Config(server=server), keys)


@pytest.mark.parametrize(
    ("address", "share"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:0:1:aaaa::1", "2001:db8:0:1::/64"),
        ("2001:db8:0:1::2", "2001:db8:0:1::/64"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_callers_without_a_key_share_by_address(keys: KeyStore, address: str, share: str) -> None:
    """SEC-4."""
    access = Access(Server(), keys)
    admitted = access.admit(head(LOCAL, client=(address, 1)))
    assert admitted == Principal("", frozenset(), unbounded=True, address=share)
    assert admitted.share == share


def test_addresses_are_remembered_so_many_at_once(keys: KeyStore) -> None:
    """SEC-4."""
    access = Access(Server(), keys)
    for number in range(1000):
        access.admit(head(LOCAL, client=(f"192.0.{number // 256}.{number % 256}", 1)))
    assert len(access._neighbours) <= 256


def test_a_key_made_anew_under_the_same_name_is_somebody_else(keys: KeyStore) -> None:
    """SES-5, SEC-5."""
    access = Access(Server(), keys)

    def caller(key: bytes) -> Principal:
        admitted = access.admit(head(LOCAL, (b"authorization", b"Bearer " + key)))
        assert isinstance(admitted, Principal)
        return admitted

    before = caller(keys.new("laptop").reveal().encode())
    keys.revoke("laptop")
    after = caller(keys.new("laptop").reveal().encode())
    assert (before.name, after.name) == ("laptop", "laptop")
    assert before.id != after.id
    assert before.share != after.share


def test_headers_of_proxies_do_not_change_what_host_and_origin_are(keys: KeyStore) -> None:
    """SEC-1, SEC-2: nobody is believed who says X-Forwarded-Host, not even a proxy of ours."""
    access = Access(Server(trusted_proxies=("10.0.0.1",), public_url="https://mcp.example"), keys)
    said = [(b"x-forwarded-host", b"mcp.example"), (b"x-forwarded-proto", b"https"), (b"x-forwarded-port", b"8000"),
            (b"forwarded", b"for=1.2.3.4;host=mcp.example;proto=https")]  # fmt: skip
    for headers, status in (
        ([(b"host", b"evil.example")], 421),
        ([(b"host", b"evil.example:8000")], 421),
        ([LOCAL, (b"origin", b"https://evil.example")], 403),
    ):
        refusal = access.admit(head(*headers, *said, client=("10.0.0.1", 1)))
        assert isinstance(refusal, Refusal)
        assert refusal.status == status
