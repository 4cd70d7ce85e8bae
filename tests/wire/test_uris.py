"""`wire.uris`: what clients make of one URI comes to one text, and different ones stay apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpd.wire.uris import normalise, tidy, with_normal_authority

SAME = [
    ("notes://café", "notes://caf%C3%A9", "notes://caf%c3%a9/", "NOTES://café", "notes://xn--caf-dma", "notes://CAFÉ"),
    ("Notes://X", "notes://x", "notes://X/", "notes://%58"),
    (
        "http://example.com",
        "http://example.com/",
        "HTTP://EXAMPLE.com:80/",
        "http://example.com:",
        "http://example.com/.",
    ),
    ("https://bücher.example/ä", "https://xn--bcher-kva.example/%C3%A4", "https://b%C3%BCcher.example:443/%c3%a4"),
    ("docs:///a (1)+b&c'd@e,f=g!h[i].md", "docs:///a%20%281%29%2Bb%26c%27d%40e%2Cf%3Dg%21h%5bi%5D.md"),
    ("docs:///Ü.md", "docs:///%c3%9c.md", "DOCS:///%C3%9C.md", "docs:///x/../%C3%9C.md", "docs:///%2e/%C3%9C.md"),
    ("notes://x/100%", "notes://x/100%25"),
    ("notes://x/~a-b_c.d", "notes://x/%7Ea%2Db%5fc%2ed"),
    ("urn:Example:a%2cb", "URN:Example:a,b"),
    ("notes://x/a?q=ö b", "notes://x/a?q=%C3%B6%20b"),
    ("http://[::1]/a", "http://[::1]:80/a"),
    ("http://me@X/", "http://me@x"),
    ("notes://x::", "NOTES://x::/"),
    ("notes://123/", "NOTES://123"),
]
APART = [
    ("notes://x/a", "notes://x/A"),
    ("notes://x/a/b", "notes://x/a%2Fb"),
    ("notes://x/a?b", "notes://x/a%3Fb"),
    ("notes://x/a#b", "notes://x/a%23b"),
    ("notes://x/a?q=1&r=2", "notes://x/a?q=1%26r=2"),
    ("notes://x/a?q=1+2", "notes://x/a?q=1%2B2"),
    ("notes://x/%2541", "notes://x/A"),
    ("notes://x/a/", "notes://x/a"),
    ("http://x:81/", "http://x/"),
    ("notes://x:80/", "notes://x/"),
    ("notes://me@x/", "notes://Me@x/"),
    ("notes:/x", "notes://x"),
    ("notes:x", "notes:/x"),
]


@pytest.mark.parametrize("spellings", SAME, ids=lambda spellings: spellings[0])
def test_spellings_of_one_uri_have_one_normal_form(spellings: tuple[str, ...]) -> None:
    assert len({normalise(spelling) for spelling in spellings}) == 1


@pytest.mark.parametrize(("one", "other"), APART)
def test_different_uris_stay_apart(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


@pytest.mark.parametrize(
    ("path", "left"),
    [("/a/./b", "/a/b"), ("/a/../b", "/b"), ("/../../b", "/b"), ("/a/..", "/"), ("/a/.", "/a/"), ("/a//b", "/a//b")],
)
def test_dots_in_a_path_are_followed_as_a_client_follows_them(path: str, left: str) -> None:
    assert normalise(f"notes://x{path}") == f"notes://x{left}"


@pytest.mark.parametrize(
    "uri", ["docs:///notes/todo.md", "notes://x/a-b_c~d", "notes:today", "urn:a:b", "mailto:a@b", "notes:a/../b"]
)
def test_a_normal_uri_is_left_alone(uri: str) -> None:
    assert normalise(uri) == uri


def test_a_host_of_digits_is_no_port() -> None:
    assert normalise("notes://123") == "notes://123/"
    assert with_normal_authority("Notes://123/É") == "notes://123/%C3%89"


@pytest.mark.parametrize("text", ["no scheme é", "notes:é"])
def test_what_has_no_authority_is_tidied(text: str) -> None:
    assert with_normal_authority(text) == text.replace("é", "%C3%A9").replace(" ", "%20")


def test_tidying_leaves_reserved_characters_as_they_are() -> None:
    assert tidy("a%28(%2f/%c3%a9é%41") == "a%28(%2F/%C3%A9%C3%A9A"


def test_half_a_surrogate_pair_and_a_broken_host_have_a_normal_form() -> None:
    assert normalise("notes://x/\ud800") == "notes://x/%ED%A0%80"
    assert normalise("notes://xn--\u20ac/") == normalise("notes://xn--%E2%82%AC")
    assert normalise("notes://xn--!!!!/a") == "notes://xn--!!!!/a"


_PIECES = st.sampled_from(
    [
        ":",
        "/",
        "//",
        "?",
        "#",
        "%",
        "%2",
        "%2e",
        "..",
        ".",
        "@",
        "[",
        "]",
        "xn--",
        "é",
        "A",
        "z",
        "\ud800",
        "80",
        " ",
        "\n",
    ]
)


@given(st.lists(_PIECES | st.characters(), max_size=12), st.sampled_from(["", "n:", "n://", "HTTP://", "docs:///"]))
def test_the_normal_form_of_any_text_is_ascii_and_its_own_normal_form(pieces: list[str], start: str) -> None:
    once = normalise(start + "".join(pieces))
    assert once.isascii()
    assert normalise(once) == once
