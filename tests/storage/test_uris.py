"""Document URIs: every spelling that a client may make leads to what is stored, and back."""

from __future__ import annotations

import os
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpd.storage.uris import canonical, encoded, is_document, shown, spellings, stored
from mcpd.wire.uris import normalise

NAMES = [
    "plain.md", "a (b).md", "a+b&c.md", "it's.md", "me@home,1=2!.md", "x[1].md", "caf\u00e9.md",
    "\u043f\u043b\u0430\u043d.md", "100%.md", "100%25.md", "a%2Fb.md", "a#b.md", "why?.md",
    "a;b:c$d*e.md", "..md", "\U0001f600", "a\\b",
]  # fmt: skip
SEGMENTS = st.binary(min_size=1, max_size=8).filter(lambda part: part not in (b".", b".."))


def uri_of(*parts: bytes) -> str:
    return "docs:///" + "/".join(map(encoded, parts))


def expansion(path: str) -> str:
    """The template `docs:///{+path}`, expanded as RFC 6570 section 3.2.3 has it: triplets stay."""
    return "docs:///" + quote(path, safe=":/?#[]@!$&'()*+,;=%")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("safe", ["", "()+&'@,=![]", ":/@!$&'()*+,;=[]", "( )[]\u00e9\u043f\u043b\u0430\u043d"])
def test_whatever_a_client_leaves_unencoded_the_document_is_the_same(name: str, safe: str) -> None:
    kept = uri_of(b"n", name.encode())
    asked = "docs:///n/" + "".join(letter if letter in safe else quote(letter, safe="") for letter in name)
    for spelling in (
        asked,
        asked.replace("docs", "DOCS"),
        _lower_triplets(asked),
        normalise(asked),
        f"{asked}#char=1,2",
    ):
        assert canonical(spelling) == kept
        assert is_document(spelling)


def _lower_triplets(uri: str) -> str:
    head, *others = uri.split("%")
    return "%".join([head, *(other[:2].lower() + other[2:] for other in others)])


@given(st.lists(SEGMENTS, min_size=1, max_size=3))
def test_what_is_shown_leads_back_through_the_template(parts: list[bytes]) -> None:
    """CMP-1: a completion's value, put into the template, is the document's URI."""
    kept = uri_of(*parts)
    assert canonical(expansion(shown(kept))) == kept
    assert "docs:///" + stored(shown(kept)) == kept


@given(st.text() | st.text().map("docs:///".__add__))
def test_any_text_has_one_stored_form(text: str) -> None:
    once = canonical(text)
    assert canonical(once) == once
    if is_document(text) and "\n" not in text:
        assert normalise(once) == normalise(normalise(once))


def test_shown_is_what_a_person_would_type() -> None:
    assert [shown(uri_of(os.fsencode(name))) for name in NAMES] == [
        name.replace("%", "%25").replace("#", "%23").replace("?", "%3F") for name in NAMES
    ]
    assert shown("docs:///a%2Fb/%FF%00") == "a%2Fb/%FF%00"


def test_dot_segments_are_removed_and_others_uris_left_alone() -> None:
    assert canonical("docs:///n/../m/./a") == "docs:///m/a"
    assert spellings("docs:///a(b)#char=0,1") == ("docs:///a%28b%29", "docs:///a(b)")
    assert spellings("http://host/a(b)") == ("http://host/a(b)",)
