"""URI templates: what matches, what is refused, and that no template makes matching slow."""

from __future__ import annotations

import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpd.errors import RegistrationError
from mcpd.resources.templates import MAX_URI_CHARS, Template, is_template, is_uri


@pytest.mark.parametrize(
    ("template", "uri", "values"),
    [
        ("test://template/{id}/data", "test://template/123/data", {"id": "123"}),
        ("test://template/{id}/data", "test://template/a%20b/data", {"id": "a b"}),
        ("notes:///{+path}", "notes:///a/b/c.md", {"path": "a/b/c.md"}),
        ("notes:///{+path}.{ext}", "notes:///a/b.tar.gz", {"path": "a/b.tar", "ext": "gz"}),
        ("t://{a}-{b}", "t://1-2-3", {"a": "1-2", "b": "3"}),
        ("t://{+a}-{b}", "t://p-q/r-s", {"a": "p-q/r", "b": "s"}),
        ("t://{a}/{b}", "t://caf%C3%A9/ö", {"a": "café", "b": "ö"}),
        ("t://x/{q}", "t://x/a%2Fb", {"q": "a/b"}),
    ],
)
def test_a_uri_made_from_a_template_gives_its_values(template: str, uri: str, values: dict[str, str]) -> None:
    """RSC-1."""
    assert Template(template).match(uri) == values


@pytest.mark.parametrize(
    ("template", "uri", "values"),
    [
        ("Notes://X/{id}", "notes://x/A", {"id": "A"}),
        ("notes://x/{id}", "NOTES://X/A", {"id": "A"}),
        ("notes://café/{id}", "notes://xn--caf-dma/%c3%a9", {"id": "é"}),
        ("notes://café/{id}", "notes://caf%C3%89/1", {"id": "1"}),
        ("notes://x/tag é/{id}", "notes://x/tag%20%c3%a9/1", {"id": "1"}),
        ("notes://x/%c3%a9(a)/{id}", "notes://x/é(a)/1", {"id": "1"}),
        ("notes://x/{id}", "notes://x/%28a%29%2B%26%27%40%2C%3D%21%5b%5D", {"id": "(a)+&'@,=![]"}),
        ("notes://x/{id}", "notes://x/(a)+&'@,=![]", {"id": "(a)+&'@,=![]"}),
        ("notes://x/{+path}", "notes://x/a/(b)/%2541", {"path": "a/(b)/%41"}),
        ("notes://x/{a}~{b}", "notes://x/1%7E2", {"a": "1", "b": "2"}),
        ("Notes://{id}", "notes://Todo", {"id": "Todo"}),
        ("notes://{id}", "notes://Todo/", {"id": "Todo"}),
        ("notes://{id}", "notes://caf%C3%A9", {"id": "café"}),
        ("notes://{+path}", "notes://a/", {"path": "a/"}),
        ("http://example.com:80/{id}", "http://EXAMPLE.com/1", {"id": "1"}),
        ("notes:{id}", "Notes:A", {"id": "A"}),
        ("notes://x?q={q}", "notes://X?q=a%26b", {"q": "a&b"}),
        ("notes://x/100%/{id}", "notes://x/100%25/1", {"id": "1"}),
    ],
)
def test_it_does_not_matter_how_a_client_writes_the_expansion(template: str, uri: str, values: dict[str, str]) -> None:
    """RSC-1."""
    assert Template(template).match(uri) == values


@pytest.mark.parametrize(
    ("template", "uri"),
    [
        ("notes://x/A/{id}", "notes://x/a/1"),
        ("notes://x/{id}", "notes://x/1/"),
        ("notes://x{+path}", "notes://y/"),
        ("notes://x/{a},{b}", "notes://x/1%2C2"),
        ("notes://{id}", "notes://a/b/"),
        ("notes://x/{id}", "notes://x/%2E%2e"),
        ("notes://x/{+path}", "notes://x/a/%2E./b"),
    ],
)
def test_what_means_something_else_does_not_match_for_being_alike(template: str, uri: str) -> None:
    """RSC-2."""
    assert Template(template).match(uri) is None


@pytest.mark.parametrize(
    ("template", "uri"),
    [
        ("test://template/{id}/data", "test://template//data"),
        ("test://template/{id}/data", "test://template/1/2/data"),
        ("test://template/{id}/data", "test://template/1/data/"),
        ("test://template/{id}/data", "test://template/1/datum"),
        ("test://template/{id}/data", "test://template/1?x/data"),
        ("test://template/{id}/data", "other://template/1/data"),
        ("t://{a}", "t://"),
        ("t://{a}-{b}", "t://ab"),
        ("t://{a}", "t://%ff"),
        ("t://{a}", "t://a%00b"),
    ],
)
def test_a_uri_of_another_shape_does_not_match(template: str, uri: str) -> None:
    """RSC-2."""
    assert Template(template).match(uri) is None


@pytest.mark.parametrize(
    "tail", ["..", "../etc/passwd", "a/../b", "%2e%2e", "a%2F..%2Fb", ".", "a/./b", "..%5Cx", "a%5c.."]
)
def test_a_traversal_never_reaches_a_template_function(tail: str) -> None:
    """RSC-3."""
    assert Template("files:///{+path}").match("files:///" + tail) is None


@pytest.mark.parametrize(
    "template",
    [
        "t://{a}{b}",
        "t://{a}/{a}",
        "t://{a",
        "t://a}",
        "t://{}",
        "t://{?q}",
        "t://{x*}",
        "t://{x:3}",
        "t://{a,b}",
        "{a}://x",
        "x/{a}",
    ],
)
def test_a_template_that_cannot_be_read_backwards_is_refused_by_name(template: str) -> None:
    """RSC-1: what is advertised is served."""
    with pytest.raises(RegistrationError) as caught:
        Template(template)
    assert repr(template) in str(caught.value)


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_expansion_of_single_segments_is_undone(left: str, right: str) -> None:
    """RSC-1: level 1 expansion, then matching, is the identity, except for traversals and NUL."""
    try:
        uri = f"t://{quote(left, safe='')}/x/{quote(right, safe='')}"
    except UnicodeEncodeError:
        return
    values = Template("t://{left}/x/{right}").match(uri)
    dangerous = any(part in (".", "..") for text in (left, right) for part in text.replace("\\", "/").split("/"))
    assert (values is None) if dangerous or "\0" in left + right else values == {"left": left, "right": right}


def test_variables_are_known_in_their_order() -> None:
    """CMP-1: completion refers to them."""
    assert Template("t://{b}/{+a.c}").variables == ("b", "a.c")


def test_the_worst_uri_is_matched_in_a_bounded_time() -> None:
    """RSC-3: a template with many variables and a URI that almost matches must not stop the server."""
    template = Template("t://" + "a".join(f"{{+v{n}}}" for n in range(8)) + "b")
    begun = time.process_time()
    assert template.match("t://" + "a" * (MAX_URI_CHARS - 10)) is None
    assert time.process_time() - begun < 1
    assert Template("t://{+v}").match("t://" + "a" * MAX_URI_CHARS) is None


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("test://x", True),
        ("urn:isbn:1", True),
        ("x", False),
        ("://x", False),
        ("a b://x", False),
        ("t://a b", False),
        ("t://a\n", False),
    ],
)
def test_only_absolute_uris_are_uris(text: str, good: bool) -> None:
    """RSC-3."""
    assert is_uri(text) is good


def test_a_brace_makes_a_template() -> None:
    """RSC-1."""
    assert is_template("t://{a}")
    assert not is_template("t://a")
