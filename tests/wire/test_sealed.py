"""Sealed state: it opens for whom and what it was made, in time, unaltered; and in no other case."""

from __future__ import annotations

import base64
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpd.errors import ConfigurationError, InvalidParams
from mcpd.wire.jsonrpc import decode
from mcpd.wire.sealed import (
    Binding,
    KeyRing,
    digest,
    new_key_text,
    open_sealed,
    parse_ring,
    seal,
    sign,
    verify,
)

OLD, NEW = b"o" * 32, b"n" * 32
RING = KeyRing([("new", NEW), ("old", OLD)])
HERE = Binding("alice", "tools/call", "book", digest({"seat": 1}))
CLAIMS = {"round": 1, "answers": {"name": {"action": "accept", "content": {"name": "Ада"}}}}
STATE = seal(RING, CLAIMS, now=1000.0, binding=HERE, ttl_s=600)


def refuse(token: Any, *, ring: KeyRing = RING, now: float = 1001.0, expect: Binding = HERE) -> None:
    with pytest.raises(InvalidParams) as caught:
        open_sealed(ring, token, now=now, expect=expect)
    assert (caught.value.message, caught.value.data) == ("Invalid or expired requestState", None)


def test_a_state_opens_for_the_request_it_was_made_for() -> None:
    """MRT-4, MRT-5."""
    assert open_sealed(RING, STATE, now=1001.0, expect=HERE) == CLAIMS


def test_a_state_opens_until_it_expires() -> None:
    """MRT-6."""
    assert open_sealed(RING, STATE, now=1599.9, expect=HERE) == CLAIMS
    refuse(STATE, now=1600.0)
    refuse(STATE, now=1e12)


@pytest.mark.parametrize(
    "expect",
    [
        Binding("bob", HERE.method, HERE.target, HERE.digest),
        Binding("", HERE.method, HERE.target, HERE.digest),
        Binding(HERE.principal, "prompts/get", HERE.target, HERE.digest),
        Binding(HERE.principal, HERE.method, "cancel", HERE.digest),
        Binding(HERE.principal, HERE.method, HERE.target, digest({"seat": 2})),
    ],
)
def test_a_state_of_another_caller_method_target_or_argument_is_refused(expect: Binding) -> None:
    """MRT-6."""
    refuse(STATE, expect=expect)


@pytest.mark.parametrize("separator", ["", '","', ",", "\0", "\n", ".", ":"])
def test_no_part_of_a_binding_passes_for_a_part_of_its_neighbour(separator: str) -> None:
    """MRT-6."""
    state = seal(RING, {}, now=1000.0, binding=Binding("alice", f"tools{separator}call", "book", "d"))
    refuse(state, expect=Binding(f"alice{separator}tools", "call", "book", "d"))
    refuse(state, expect=Binding("alice", "tools", f"call{separator}book", "d"))


@pytest.mark.parametrize(
    "token",
    [
        STATE + "-TAMPERED",
        STATE + "é",
        STATE.replace("v1.", "vé."),
        STATE + "=",
        STATE + "\n",
        " " + STATE,
        STATE[:-1],
        STATE[1:],
        STATE.replace("v1.", "v2."),
        STATE.replace(".new.", ".old."),
        STATE.replace(".new.", ".nobody."),
        STATE.replace(".new.", ".."),
        STATE.replace(".", ".."),
        "",
        ".",
        "...",
        "v1.new..",
        "\ud800",
        "é" * 90,
        None,
        0,
        True,
        b"v1",
        {},
        [STATE],
    ],
    ids=lambda token: repr(token)[:30],
)
def test_an_altered_or_made_up_state_is_refused_with_the_one_message(token: Any) -> None:
    """MRT-5, MRT-7: a tampered state is an error, never a fresh question."""
    refuse(token)


def test_no_single_character_can_be_changed() -> None:
    """MRT-5: also not the unused bits of the last Base64 digit."""
    for place, original in enumerate(STATE):
        for other in string.ascii_letters + string.digits + "-_.=":
            if other != original:
                assert verify(RING, "requestState", STATE[:place] + other + STATE[place + 1 :], b"") is None
    last = STATE[-1]
    for other in set(string.ascii_letters + string.digits + "-_") - {last}:
        refuse(STATE[:-1] + other)


def test_a_rotated_ring_opens_old_states_and_seals_with_the_new_key() -> None:
    """MRT-7: keys by id; a dropped key ends its states."""
    before, after = KeyRing([("old", OLD)]), KeyRing([("new", NEW)])
    state = seal(before, {}, now=0.0, binding=HERE)
    assert open_sealed(RING, state, now=1.0, expect=HERE) == {}
    assert STATE.startswith("v1.new.")
    refuse(state, ring=after, now=1.0)
    refuse(STATE, ring=KeyRing([("new", OLD)]))


def test_a_string_sealed_for_one_purpose_does_not_verify_for_another() -> None:
    """MRT-5: a cursor is no state."""
    token = sign(RING, "cursor", b"x", b"c")
    assert verify(RING, "cursor", token, b"c") == b"x"
    assert verify(RING, "requestState", token, b"c") is None
    assert verify(RING, "cursor", token, b"") is None


@given(st.text())
def test_no_text_that_we_did_not_seal_opens(text: str) -> None:
    """MRT-5."""
    refuse(text)
    refuse("v1.new." + text)


@given(st.binary(), st.binary())
def test_any_payload_comes_back_for_its_context(payload: bytes, context: bytes) -> None:
    """MRT-7."""
    token = sign(RING, "p", payload, context)
    assert set(token) <= set(string.ascii_letters + string.digits + "-_.")
    assert verify(RING, "p", token, context) == payload
    assert verify(RING, "p", token, context + b"x") is None


@pytest.mark.parametrize("separator", ["", "\n", ":", "."])
@given(left=st.text(string.printable, min_size=1), right=st.text(string.printable, min_size=1))
def test_context_and_text_cannot_be_cut_elsewhere(separator: str, left: str, right: str) -> None:
    """MRT-5: no part of a context passes for a part of the text, or the other way round."""
    body, _, mac = sign(RING, "p", b"x", (left + separator + right).encode()).rpartition(".")
    assert verify(RING, "p", f"{body}{separator}{left}.{mac}", right.encode()) is None
    assert verify(RING, "p", f"{right}{separator}{body}.{mac}", left.encode()) is None


def test_the_digest_ignores_the_order_of_keys_and_nothing_else() -> None:
    """MRT-6: canonical at every depth."""
    one = digest({"a": {"x": 1, "y": [1, 2]}, "b": None})
    assert one == digest({"b": None, "a": {"y": [1, 2], "x": 1}})
    others = [
        {"a": {"x": 1, "y": [2, 1]}, "b": None},
        {"a": {"x": 1, "y": [1, 2]}},
        {"a": {"x": "1", "y": [1, 2]}, "b": None},
    ]
    assert one not in [digest(other) for other in others]


def test_a_ring_is_read_from_its_text_current_key_first() -> None:
    """MRT-7: comments and blank lines are allowed, padding is optional, a comma does for a line."""
    encoded = base64.urlsafe_b64encode(NEW).decode()
    text = f"# current\n new:{encoded}\n\nold: {base64.urlsafe_b64encode(OLD).decode().rstrip('=')}\n"
    for ring in (parse_ring(text), parse_ring(text.split("\n", 1)[1].replace("\n", ","))):
        assert ring.current == "new"
        assert ring.kids == ("new", "old")
        assert open_sealed(ring, STATE, now=1001.0, expect=HERE) == CLAIMS


def test_a_new_key_is_made_of_the_given_randomness_and_stands_before_older_ones() -> None:
    """MRT-7."""
    first = new_key_text(b"1" * 32)
    second = new_key_text(b"2" * 32) + first
    state = seal(parse_ring(first), {}, now=0.0, binding=HERE)
    assert open_sealed(parse_ring(second), state, now=1.0, expect=HERE) == {}
    assert parse_ring(second).current != parse_ring(first).current
    assert new_key_text(b"1" * 32) == first


SECRET = base64.urlsafe_b64encode(b"s3cret--" * 4).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        SECRET,
        f":{SECRET}",
        f"{SECRET}:k",
        "k:A",
        f"a b:{SECRET}",
        f"a.b:{SECRET}",
        f"{'k' * 33}:{SECRET}",
        "k:",
        "k:short",
        f"k:{SECRET[:-4]}!",
        f"k:{SECRET}\nk:{SECRET}",
        "k:" + "/" * 44,
    ],
)
def test_a_bad_ring_is_refused_without_repeating_its_secret(text: str) -> None:
    """MRT-7: the text of the error may reach a log."""
    with pytest.raises(ConfigurationError) as caught:
        parse_ring(text)
    assert SECRET[:12] not in str(caught.value)


def test_too_little_randomness_is_refused_and_a_ring_does_not_show_its_secrets() -> None:
    """MRT-7."""
    with pytest.raises(ConfigurationError):
        new_key_text(b"x" * 31)
    assert "nnnn" not in repr(RING)


@pytest.mark.parametrize(
    ("one", "other"),
    [("1", "1.0"), ("1", "1e0"), ("-0.0", "0"), ("1e20", "100000000000000000000"), ("[{}, 2.0]", "[{}, 2]")],
)
def test_a_number_has_one_digest_however_it_is_written(one: str, other: str) -> None:
    assert digest({"a": decode(one)}) == digest({"a": decode(other)})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "true"), ("0", "false"), ("0.0", "null"), ("1.5", "1"), ("1", '"1"'), ("[1.0]", "[true]"),
        ("9007199254740993", "9007199254740992.0"), ("18446744073709551617", "18446744073709551616.0"),
        ("1e300", "1" + "0" * 300),
    ],
)  # fmt: skip
def test_what_is_not_equal_has_another_digest(one: str, other: str) -> None:
    """Among them large integers and the doubles beside them."""
    assert digest({"a": decode(one)}) != digest({"a": decode(other)})
