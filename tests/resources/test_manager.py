"""Resources: found, read, refused."""

from __future__ import annotations

import base64
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from mcpd.authoring.content import Audio, Embedded, Image, Text
from mcpd.authoring.declarations import ResourceDeclaration
from mcpd.catalog import Paging
from mcpd.errors import InvalidParams, RegistrationError, ResourceNotFound, ToolError
from mcpd.resources.cache import ResourceCache
from mcpd.resources.manager import ResourceManager
from mcpd.wire.call import Principal
from mcpd.wire.cursors import KeyRing

STRANGER = Principal("q", frozenset())
"""A caller with a key that has no scope."""

PAGING = Paging(KeyRing([("k1", b"s" * 32)]), 100)


class Scoped(ResourceDeclaration, frozen=True, kw_only=True):
    scopes: tuple[str, ...] = ()


def declared(uri: str, fn: Callable[..., Any] | None = None, **options: Any) -> ResourceDeclaration:
    return Scoped(uri=uri, name=options.pop("name", uri), fn=fn or (lambda: "text"), **options)


def manager(*declarations: ResourceDeclaration) -> ResourceManager:
    cache = ResourceCache(max_bytes=1_000_000, max_items=100, observe=lambda _: None)
    return ResourceManager(declarations, PAGING, cache=cache)


async def run(fn: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    value = fn(**arguments)
    return await value if inspect.isawaitable(value) else value


async def read_one(value: Any, **options: Any) -> dict[str, Any]:
    contents: list[dict[str, Any]] = (await manager(declared("t://x", lambda: value, **options)).read("t://x", run))[
        "contents"
    ]
    assert len(contents) == 1
    return contents[0]


async def test_listings_hold_exact_resources_and_templates_apart() -> None:
    """RSC-1: an entry has only the members that were given."""
    resources = manager(
        declared("t://a", name="a", title="A", description="d", mime_type="text/plain", size=3),
        declared("t://{b}", lambda b: b, name="b", mime_type="text/csv"),
    )
    assert (await resources.list(None))["resources"] == [
        {"uri": "t://a", "name": "a", "title": "A", "description": "d", "mimeType": "text/plain", "size": 3}
    ]
    assert resources.templates(None)["resourceTemplates"] == [
        {"uriTemplate": "t://{b}", "name": "b", "mimeType": "text/csv"}
    ]


async def test_an_exact_resource_wins_over_a_template_and_the_first_template_over_later_ones() -> None:
    """RSC-1."""
    resources = manager(
        declared("t://{a}", lambda a: f"template {a}"),
        declared("t://{b}", lambda b: "never"),
        declared("t://x", lambda: "exact"),
    )
    assert (await resources.read("t://x", run))["contents"][0]["text"] == "exact"
    assert (await resources.read("t://y%20z", run))["contents"][0]["text"] == "template y z"


async def test_text_and_bytes_become_contents_with_a_media_type() -> None:
    """RSC-1: text xor blob."""
    assert await read_one("hi") == {"uri": "t://x", "mimeType": "text/plain", "text": "hi"}
    assert await read_one("{}", mime_type="application/json") == {
        "uri": "t://x",
        "mimeType": "application/json",
        "text": "{}",
    }
    assert await read_one(b"\xff") == {"uri": "t://x", "mimeType": "application/octet-stream", "blob": "/w=="}
    assert (await read_one(b"a", mime_type="image/png"))["mimeType"] == "image/png"


async def test_content_values_become_contents() -> None:
    """RSC-1."""
    assert (await read_one(Text("hi")))["text"] == "hi"
    image = await read_one(Image(b"png", mime_type="image/png"))
    assert (image["mimeType"], base64.b64decode(image["blob"])) == ("image/png", b"png")
    assert (await read_one(Audio(b"wav", mime_type="audio/wav")))["mimeType"] == "audio/wav"
    other = await read_one(Embedded("t://part", text="p", mime_type="text/x"))
    assert other == {"uri": "t://part", "mimeType": "text/x", "text": "p"}


async def test_a_list_is_several_contents() -> None:
    """RSC-1."""
    resources = manager(declared("t://x", lambda: ["a", b"b"]))
    assert [sorted(content) for content in (await resources.read("t://x", run))["contents"]] == [
        ["mimeType", "text", "uri"],
        ["blob", "mimeType", "uri"],
    ]


@pytest.mark.parametrize("nothing", [None, []])
async def test_nothing_to_read_is_not_found_and_never_empty_contents(nothing: Any) -> None:
    """RSC-2."""
    with pytest.raises(ResourceNotFound) as caught:
        await manager(declared("t://{x}", lambda x: nothing)).read("t://gone", run)
    assert caught.value.data == {"uri": "t://gone"}


async def test_an_unknown_uri_is_not_found_and_named() -> None:
    """RSC-2."""
    with pytest.raises(ResourceNotFound) as caught:
        await manager(declared("t://x")).read("t://other", run)
    assert caught.value.data == {"uri": "t://other"}


@pytest.mark.parametrize("uri", [None, 3, "", "x", "/etc/passwd", "t://a\nb", "t://" + "a" * 10_000])
async def test_what_is_no_absolute_uri_is_refused(uri: Any) -> None:
    """RSC-3."""
    with pytest.raises(InvalidParams) as caught:
        await manager(declared("t://{+x}", lambda x: x)).read(uri, run)
    assert not isinstance(caught.value, ResourceNotFound)


async def test_a_traversal_is_not_found() -> None:
    """RSC-3."""
    with pytest.raises(ResourceNotFound):
        await manager(declared("t://{+x}", lambda x: x)).read("t://a/../b", run)


async def test_a_resource_of_another_scope_does_not_exist() -> None:
    """RSC-3: permission is checked per read; RES-4: and the answer is private."""
    resources = manager(declared("t://x", scopes=("secret",), ttl_ms=9, cache_scope="public"), declared("t://y"))
    assert [entry["uri"] for entry in (await resources.list(None, STRANGER))["resources"]] == ["t://y"]
    with pytest.raises(ResourceNotFound):
        await resources.read("t://x", run, STRANGER)
    allowed = Principal("p", frozenset({"secret"}))
    body = await resources.read("t://x", run, allowed)
    assert (body["ttlMs"], body["cacheScope"]) == (9, "private")
    assert len((await resources.list(None, allowed))["resources"]) == 2


async def test_a_template_of_another_scope_does_not_exist() -> None:
    """RSC-3: the next template that the caller may use is asked."""
    resources = manager(
        declared("t://{a}", lambda a: "secret", scopes=("secret",)), declared("t://{b}", lambda b: "open")
    )
    assert (await resources.read("t://x", run, STRANGER))["contents"][0]["text"] == "open"
    assert resources.template("t://{a}", STRANGER) is None


async def test_cache_hints_come_from_the_declaration() -> None:
    """RES-3, RES-4: 0 and private unless declared."""
    resources = manager(declared("t://x"), declared("t://y", ttl_ms=60_000, cache_scope="public"))
    plain, hinted = await resources.read("t://x", run), await resources.read("t://y", run)
    assert (plain["ttlMs"], plain["cacheScope"]) == (0, "private")
    assert (hinted["ttlMs"], hinted["cacheScope"]) == (60_000, "public")


@pytest.mark.parametrize("value", [3, {"text": "x"}, ["a", None], object()])
async def test_a_function_that_returns_no_content_is_named(value: Any) -> None:
    """A bug of the author's: the log must say where."""

    def faulty() -> Any:
        return value

    with pytest.raises(TypeError, match="faulty"):
        await manager(declared("t://x", faulty)).read("t://x", run)


async def test_a_functions_own_failure_reaches_the_caller_as_text() -> None:
    """`ToolError` outside tools: no result of a read can say isError."""

    def fails() -> str:
        raise ToolError("the archive is closed on Sundays")

    with pytest.raises(InvalidParams, match="Sundays"):
        await manager(declared("t://x", fails)).read("t://x", run)


async def test_faulty_declarations_are_refused_and_leave_the_old_set() -> None:
    """Law 10."""
    resources = manager(declared("t://x"))
    for faulty in (declared("no-scheme"), declared("t://{a}{b}"), declared("t://{a"), declared("t://x")):
        with pytest.raises(RegistrationError):
            resources.replace([declared("t://x"), faulty])
    twice = declared("t://{a}", lambda a: a)
    with pytest.raises(RegistrationError):
        resources.replace([declared("t://y"), twice, twice])
    assert [entry["uri"] for entry in (await resources.list(None))["resources"]] == ["t://x"]
    assert len(resources) == 1


def test_a_swap_tells_whether_anything_changed() -> None:
    """PUB-1."""
    first, second = declared("t://x"), declared("t://{y}", lambda y: y)
    resources = manager(first)
    assert not resources.replace([first])
    assert resources.replace([first, second])
    assert resources.template("t://{y}") is not None
    assert resources.template("t://x") is None


async def test_a_description_comes_from_the_docstring_and_values_are_converted() -> None:
    """Surfaces, Writing tools: a resource function's parameters have types; what does not fit is not there."""

    async def page(number: int) -> str:
        """Read a page.

        Args:
            number: Which one.
        """
        return str(number + 1)

    resources = manager(declared("t://{number}", page))
    assert resources.templates(None)["resourceTemplates"][0]["description"] == "Read a page."
    assert (await resources.read("t://41", run))["contents"][0]["text"] == "42"
    with pytest.raises(ResourceNotFound):
        await resources.read("t://many", run)


@pytest.mark.parametrize(
    ("uri", "fn"),
    [("t://{a}", lambda b: b), ("t://{a}", lambda a, b: a), ("t://x", lambda a: a), ("t://{a}", lambda: "")],
)
def test_a_function_that_does_not_take_what_its_uri_gives_is_refused(uri: str, fn: Callable[..., Any]) -> None:
    """Found at registration, not at the first read."""
    with pytest.raises(RegistrationError, match="parameter"):
        manager(declared(uri, fn))


SPELLINGS = {
    "notes://café": ["notes://caf%C3%A9", "notes://caf%c3%a9/", "Notes://xn--caf-dma", "notes://CAFÉ"],
    "Notes://X": ["notes://x", "notes://X/", "NOTES://x"],
    "http://example.com": ["http://example.com/", "HTTP://Example.COM:80"],
    "https://example.com/": ["https://example.com"],
    "notes://x/a(b)+&'@,=![c].md": [
        "notes://x/a%28b%29%2B%26%27%40%2c%3d%21%5bc%5D.md",
        "notes://x/./a(b)+&'@,=![c].md",
    ],
}


@pytest.mark.parametrize("uri", SPELLINGS)
async def test_a_resource_is_found_by_what_a_client_makes_of_its_uri(uri: str) -> None:
    """RSC-1: listed as declared, read as asked for."""
    resources = manager(declared("notes://{other}", lambda other: f"template {other}"), declared(uri, lambda: "exact"))
    assert [entry["uri"] for entry in (await resources.list(None))["resources"]] == [uri]
    for spelling in (uri, *SPELLINGS[uri]):
        assert resources.serves(spelling)
        assert (await resources.read(spelling, run))["contents"] == [
            {"uri": spelling, "mimeType": "text/plain", "text": "exact"}
        ]


def test_two_spellings_of_one_uri_are_one_resource() -> None:
    with pytest.raises(RegistrationError, match="declared twice"):
        manager(declared("notes://café"), declared("Notes://caf%C3%A9/"))
    resources = manager(declared("notes://a"))
    with pytest.raises(RegistrationError, match="declared twice"):
        resources.replace([declared("notes://b"), declared("notes://B")])
    assert resources.serves("notes://a")
    assert not resources.serves("notes://b")


async def test_a_change_is_for_every_spelling_that_is_kept() -> None:
    """RES-5."""
    reads: list[str] = []

    def read() -> str:
        reads.append("")
        return "text"

    cache = ResourceCache(max_bytes=1_000_000, max_items=100, observe=lambda _: None)
    options = {"ttl_ms": 60_000, "cache_scope": "public"}
    resources = ResourceManager([declared("notes://café", read, **options)], PAGING, cache=cache)
    for uri in ("notes://café", "notes://caf%C3%A9", "notes://café", "notes://caf%C3%A9"):
        assert (await resources.read(uri, run))["contents"][0]["uri"] == uri
    assert len(reads) == 2
    cache.forget("NOTES://caf%c3%a9/")
    assert len(cache) == 0
