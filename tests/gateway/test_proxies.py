"""Who a request comes from, when proxies stand before us and clients say what they like."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpd.errors import ConfigurationError
from mcpd.gateway.proxies import Proxies

OURS = ("10.0.0.0/8", "2001:db8:1::/48")


def scope(peer: str | None, *headers: tuple[str, str]) -> dict[str, Any]:
    sent = [(name.lower().encode(), value.encode()) for name, value in headers]
    return {"type": "http", "client": None if peer is None else (peer, 4711), "headers": sent}


def client(peer: str | None, *headers: tuple[str, str], trusted: tuple[str, ...] = OURS) -> str:
    return Proxies(trusted).client_of(scope(peer, *headers))


@pytest.mark.parametrize(
    ("sent", "found"),
    [
        ("6.6.6.6, 203.0.113.7, 10.1.1.1", "203.0.113.7"),
        ("203.0.113.7", "203.0.113.7"),
        ("203.0.113.7:51234", "203.0.113.7"),
        ("[2001:db8::7]:51234", "2001:db8::7"),
        ("2001:db8:0::7", "2001:db8::7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("203.0.113.7, 2001:db8:1::5, 10.0.0.2", "203.0.113.7"),
        ("10.3.3.3, 10.2.2.2", "10.3.3.3"),
        ("203.0.113.7,,", "203.0.113.7"),
        ("6.6.6.6, unknown", "10.0.0.1"),
        ("6.6.6.6, unknown, 10.0.0.9", "10.0.0.9"),
        ("evil\x1b[2J", "10.0.0.1"),
        ("", "10.0.0.1"),
    ],
)
def test_the_list_is_read_from_its_end_as_far_as_our_proxies_wrote_it(sent: str, found: str) -> None:
    assert client("10.0.0.1", ("X-Forwarded-For", sent)) == found


def test_several_headers_are_one_list() -> None:
    """RFC 9110 5.3."""
    headers = [("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "203.0.113.7"), ("X-Forwarded-For", "10.1.1.1")]
    assert client("10.0.0.1", *headers) == "203.0.113.7"


@pytest.mark.parametrize(
    ("sent", "found"),
    [
        ("for=6.6.6.6, for=203.0.113.7;proto=https;by=10.0.0.1", "203.0.113.7"),
        ('proto=http; For="[2001:db8::7]:4711"', "2001:db8::7"),
        ('for="203.0.113.7:80", for=10.2.2.2', "203.0.113.7"),
        ("for=_hidden", "10.0.0.1"),
        ('for="6.6.6.6, for=203.0.113.7', "203.0.113.7"),
    ],
)
def test_forwarded_says_the_same_in_its_own_words(sent: str, found: str) -> None:
    """RFC 7239."""
    assert client("10.0.0.1", ("Forwarded", sent)) == found


def test_nobody_else_is_believed() -> None:
    for header in ("X-Forwarded-For", "Forwarded", "X-Real-IP"):
        assert client("198.51.100.1", (header, "for=6.6.6.6" if header == "Forwarded" else "6.6.6.6")) == "198.51.100.1"
        assert client("10.0.0.1", (header, "6.6.6.6"), trusted=()) == "10.0.0.1"
    assert client(None, ("X-Forwarded-For", "6.6.6.6")) == ""


def test_whoever_connects_to_our_unix_socket_is_believed_only_when_told() -> None:
    assert client(None, ("X-Forwarded-For", "6.6.6.6, 203.0.113.7"), trusted=("unix",)) == "203.0.113.7"


def test_a_peer_in_mapped_form_is_the_same_address() -> None:
    assert client("::ffff:10.0.0.1", ("X-Forwarded-For", "203.0.113.7")) == "203.0.113.7"
    assert client("::ffff:198.51.100.1", ("X-Forwarded-For", "203.0.113.7")) == "198.51.100.1"


def test_a_scope_gets_the_client_and_no_invented_port() -> None:
    asked = scope("10.0.0.1", ("X-Forwarded-For", "203.0.113.7"))
    Proxies(OURS).resolve(asked)
    assert asked["client"] == ("203.0.113.7", 0)
    direct = scope("198.51.100.1", ("X-Forwarded-For", "203.0.113.7"))
    Proxies(OURS).resolve(direct)
    assert direct["client"] == ("198.51.100.1", 4711)


def test_a_chain_is_followed_so_far_only() -> None:
    assert client("10.0.0.1", ("X-Forwarded-For", "6.6.6.6" + ", 10.0.0.2" * 5000)) == "10.0.0.2"


@pytest.mark.parametrize("entry", ["proxy.example", "10.0.0.0/33", ""])
def test_an_entry_that_is_no_address_is_refused(entry: str) -> None:
    with pytest.raises(ConfigurationError, match=r"server\.trusted_proxies"):
        Proxies((entry,))


@given(
    said=st.text(alphabet='for=";,[]:. 0123456789abcdef', max_size=60),
    header=st.sampled_from(["x-forwarded-for", "forwarded"]),
)
def test_what_a_client_says_first_never_makes_it_somebody_else(said: str, header: str) -> None:
    """The proxy appends; at worst (an unclosed quote) the proxy itself stands for the client."""
    named = "203.0.113.7" if header == "x-forwarded-for" else "for=203.0.113.7"
    assert client("10.0.0.1", (header, f"{said}, {named}")) in ("203.0.113.7", "10.0.0.1")
