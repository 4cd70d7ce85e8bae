"""Stored documents as resources: listed after what is declared, read whole and by span, cached, told of."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import msgspec
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from mcpd.authoring.declarations import ResourceDeclaration
from mcpd.catalog import Paging
from mcpd.errors import InvalidParams, ResourceNotFound
from mcpd.events import Changed, LocalBus
from mcpd.ingest.sources import Source
from mcpd.resources.cache import ResourceCache
from mcpd.resources.documents import RETRY_S, DocumentResources, follow, path_completion
from mcpd.resources.manager import DOCUMENT_TTL_S, ResourceManager
from mcpd.storage.documents import Document, Put, Remove, StoreUnreachable
from mcpd.storage.memory.documents import MemoryDocuments
from mcpd.wire.call import Principal
from mcpd.wire.cursors import KeyRing
from mcpd.wire.uris import normalise

RING = KeyRing([("k1", b"s" * 32)])
OTHER = Principal("other", frozenset())


def document(path: str, text: str | None = "text", **more: Any) -> Put:
    made = {"title": "", "mime_type": "text/plain", "digest": f"{path}{text}", **more}
    return Put(document=Document(uri=f"docs:///{path}", text=text, **made))


class Parts:
    """A manager over a store in memory, and the cache between them."""

    def __init__(self, declared: int = 0, page_size: int = 3) -> None:
        self.store = MemoryDocuments(clock=lambda: 86_400.0)
        self.cache = ResourceCache(max_bytes=1_000_000, max_items=100, observe=lambda _: None)
        declarations = [
            ResourceDeclaration(uri=f"t://{number}", name=str(number), fn=lambda: "declared")
            for number in range(declared)
        ]
        self.resources = ResourceManager(
            declarations, Paging(RING, page_size), cache=self.cache, documents=DocumentResources(self.store)
        )

    async def pages(self) -> list[list[str]]:
        """Every page of the listing, as URIs."""
        pages, cursor = [], None
        while True:
            body = await self.resources.list(cursor)
            pages.append([entry["uri"] for entry in body["resources"]])
            cursor = body.get("nextCursor")
            if cursor is None:
                return pages

    async def read(self, uri: str) -> dict[str, Any]:
        result = await self.resources.read(uri, self.no_run)
        content: dict[str, Any] = result["contents"][0]
        return content

    async def no_run(self, *_: Any) -> Any:
        raise AssertionError("no function is behind a document")


@pytest.mark.parametrize(
    ("declared", "stored", "pages"),
    [
        (0, 0, [0]),
        (0, 2, [2]),
        (2, 0, [2]),
        (2, 5, [3, 3, 1]),
        (3, 2, [3, 2]),
        (4, 1, [3, 2]),
        (4, 4, [3, 3, 2]),
    ],
)
async def test_a_listing_fills_its_pages_with_what_is_declared_and_then_with_documents(
    declared: int, stored: int, pages: list[int]
) -> None:
    """RSC-1, PAG-1."""
    server = Parts(declared)
    await server.store.write([document(f"n/{number}") for number in range(stored)])
    found = await server.pages()
    assert [len(page) for page in found] == pages
    wanted = [f"t://{number}" for number in range(declared)] + [f"docs:///n/{number}" for number in range(stored)]
    assert [uri for page in found for uri in page] == wanted


async def test_a_cursor_of_the_documents_is_its_callers_own() -> None:
    """PAG-1."""
    server = Parts(3)
    await server.store.write([document("n/a")])
    cursor = (await server.resources.list(None))["nextCursor"]
    for bad in (cursor[:-2], ""):
        with pytest.raises(InvalidParams):
            await server.resources.list(bad)
    with pytest.raises(InvalidParams):
        await server.resources.list(cursor, OTHER)


async def test_an_entry_says_what_a_reader_wants_to_know() -> None:
    server = Parts()
    await server.store.write(
        [document("n/a%20b.md", "# A", title="A", tags=("x", "y"), mime_type="text/markdown", size=3)]
    )
    (entry,) = (await server.resources.list(None))["resources"]
    assert entry.pop("annotations")["lastModified"] == "1970-01-02T00:00:00Z"
    assert entry == {
        "uri": "docs:///n/a%20b.md",
        "name": "a b.md",
        "title": "A",
        "mimeType": "text/markdown",
        "size": 3,
        "_meta": {"dev.mcpd/tags": ["x", "y"]},
    }
    await server.store.write([document("n/bare")])
    *_, bare = (await server.resources.list(None))["resources"]
    assert (bare["uri"], bare.keys() & {"title", "_meta"}) == ("docs:///n/bare", set())


async def test_documents_are_offered_as_a_template_whose_path_completes() -> None:
    """RSC-1, CMP-1."""
    server = Parts()
    await server.store.write([document("n/a"), document("n/b"), document("m/c")])
    (entry,) = server.resources.templates(None)["resourceTemplates"]
    template = server.resources.template(entry["uriTemplate"])
    assert template is not None
    assert list(template.variables) == ["path"]
    assert await path_completion(server.store).fn("n/") == ["n/a", "n/b"]
    await server.store.write([document(f"many/{number}") for number in range(110)])
    assert len(await path_completion(server.store).fn("many/")) == 101, "one more than a client is shown"


@pytest.mark.parametrize(
    "name", ["a (b)", "a+b&c", "it's", "me@home,1=2!", "x[1]", "caf\u00e9", "\u043f\u043b\u0430\u043d", "100%25"]
)
async def test_a_document_is_read_by_whatever_a_client_makes_of_its_uri(name: str, tmp_path: Path) -> None:
    """RSC-1, RSC-3: of the listed URI, and of the template with the completed path, which is decoded text."""
    server = Parts()
    source = Source(tmp_path, "n")
    put = document("").document
    await server.store.write([Put(document=msgspec.structs.replace(put, uri=source.uri(f"{name}.md")))])
    (listed,) = (await server.pages())[0]
    (path,) = await path_completion(server.store).fn(f"n/{name[:3]}")
    assert path == f"n/{name.replace('%', '%25')}.md"
    expanded = "docs:///" + quote(path, safe=":/?#[]@!$&'()*+,;=%")
    lower = re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), listed)
    iri = "docs:///n/" + quote(name, safe="()+&'@,=![]\u00e9\u043f\u043b\u0430\u043d") + ".md"
    for asked in (listed, lower, expanded, iri, normalise(listed), listed.replace("docs", "DOCS")):
        assert await server.read(asked) == {"uri": asked, "mimeType": "text/plain", "text": "text"}
        assert (await server.read(f"{asked}#char=1,3"))["text"] == "ex"
    with pytest.raises(ResourceNotFound):
        await server.read("docs:///n/other.md")


async def test_every_spelling_of_a_document_is_one_entry_of_the_cache(nursery: trio.Nursery) -> None:
    """A change of the document reaches what was read under another spelling of its URI."""
    server = Parts()
    bus = LocalBus()
    bus.subscribe(lambda event: server.cache.forget(event.uri))
    await nursery.start(follow, server.store, bus)
    await server.store.write([document("n/a%28b%29", "one")])
    for spelling in ("docs:///n/a(b)", "docs:///n/a%28b)"):
        assert (await server.read(spelling))["text"] == "one"
    await server.store.write([document("n/a%28b%29", "two")])
    assert (await server.read("docs:///n/a(b)"))["text"] == "two"


async def test_the_template_of_the_documents_stands_once_and_last() -> None:
    """RSC-1, PAG-1."""
    declarations = [ResourceDeclaration(uri=f"{scheme}://{{x}}", name=scheme, fn=lambda x: x) for scheme in "ab"]
    cache = ResourceCache(max_bytes=1_000_000, max_items=100, observe=lambda _: None)
    served = ResourceManager(declarations, Paging(RING, 1), cache=cache, documents=DocumentResources(MemoryDocuments()))
    first = served.templates(None)
    second = served.templates(first["nextCursor"])
    names = [[entry["name"] for entry in page["resourceTemplates"]] for page in (first, second)]
    assert (names, "nextCursor" in second) == ([["a"], ["b", "documents"]], False)


async def test_text_and_blob_are_read_as_they_are() -> None:
    server = Parts()
    await server.store.write([document("n/t", "text"), document("n/b", None, blob=b"\x00\x01", mime_type="image/png")])
    assert await server.read("docs:///n/t") == {"uri": "docs:///n/t", "mimeType": "text/plain", "text": "text"}
    assert base64.b64decode((await server.read("docs:///n/b"))["blob"]) == b"\x00\x01"


async def test_a_span_is_read_by_its_fragment() -> None:
    """How a search hit cites its place: RFC 5147."""
    server = Parts()
    await server.store.write([document("n/t", "0123456789")])
    content = await server.read("docs:///n/t#char=2,5")
    assert (content["uri"], content["text"]) == ("docs:///n/t#char=2,5", "234")
    assert (await server.read("docs:///n/t#char=0,10"))["text"] == "0123456789"


@pytest.mark.parametrize(
    "fragment", ["char=5,2", "char=0,11", "line=1,2", "char=-1,2", "char=1", "char=0,1x", f"char=1,{'9' * 5000}"]
)
async def test_a_fragment_that_names_no_part_is_refused(fragment: str) -> None:
    server = Parts()
    await server.store.write([document("n/t", "0123456789")])
    with pytest.raises(InvalidParams):
        await server.read(f"docs:///n/t#{fragment}")


async def test_a_span_of_a_blob_is_refused() -> None:
    server = Parts()
    await server.store.write([document("n/b", None, blob=b"0123", mime_type="image/png")])
    with pytest.raises(InvalidParams):
        await server.read("docs:///n/b#char=0,2")


@pytest.mark.parametrize("uri", ["docs:///n/missing", "docs:///", "docs:///../x", "docs:///n/t#char=0,1"])
async def test_a_document_that_is_not_there_is_not_found(uri: str) -> None:
    """RSC-2."""
    with pytest.raises(ResourceNotFound):
        await Parts().read(uri)


async def test_a_document_may_be_watched_before_it_exists() -> None:
    """SUB-9: whoever waits for a report may subscribe to it before it is written."""
    server = Parts()
    assert server.resources.serves("docs:///n/later")
    assert not server.resources.serves("t://other")
    assert not server.resources.serves("docs:n/later")
    without = ResourceManager([], Paging(RING), cache=server.cache)
    assert not without.serves("docs:///n/later")


async def test_a_document_is_read_through_the_cache_until_it_changes(autojump_clock: MockClock) -> None:
    """Or for some minutes: a notice may get lost."""
    server = Parts()
    await server.store.write([document("n/t", "old")])
    assert (await server.read("docs:///n/t"))["text"] == "old"
    await server.store.write([document("n/t", "new")])
    assert (await server.read("docs:///n/t#char=0,3"))["text"] == "old"
    server.cache.forget("docs:///n/t")
    assert (await server.read("docs:///n/t"))["text"] == "new"
    await server.store.write([document("n/t", "newer")])
    await trio.sleep(DOCUMENT_TTL_S + 1)
    assert (await server.read("docs:///n/t"))["text"] == "newer"
    await server.store.write([Remove(uri="docs:///n/t")])
    server.cache.forget(None)
    with pytest.raises(ResourceNotFound):
        await server.read("docs:///n/t")


async def test_clients_are_told_not_to_cache_documents_and_not_to_share_them() -> None:
    """RES-4: who may read them is a matter of keys."""
    server = Parts()
    await server.store.write([document("n/t")])
    result = await server.resources.read("docs:///n/t", server.no_run)
    assert (result["ttlMs"], result["cacheScope"]) == (0, "private")


async def test_a_declared_resource_with_a_lifetime_is_kept_and_each_caller_has_a_copy_of_his_own(
    autojump_clock: MockClock,
) -> None:
    """RES-4: private unless its author says that all see the same."""
    calls: list[str] = []

    async def run(fn: Any, _: dict[str, Any]) -> Any:
        calls.append(fn())
        return calls[-1]

    expected: tuple[tuple[Literal["private", "public"], int], ...] = (("private", 2), ("public", 1))
    for scope, loads in expected:
        calls.clear()
        declaration = ResourceDeclaration(uri="t://x", name="x", fn=lambda: "v", ttl_ms=1000, cache_scope=scope)
        cache = ResourceCache(max_bytes=1_000_000, max_items=100, observe=lambda _: None)
        resources = ResourceManager([declaration], Paging(RING), cache=cache)
        for principal in (Principal("a", frozenset()), OTHER, OTHER):
            await resources.read("t://x", run, principal)
        assert len(calls) == loads
        await resources.read("t://x", run, OTHER, fresh=True)
        assert len(calls) == loads + 1
        await trio.sleep(1.1)
        await resources.read("t://x", run, OTHER)
        assert len(calls) == loads + 2


class Replicated(LocalBus):
    """A bus that remembers what other replicas would hear."""

    def __init__(self) -> None:
        super().__init__()
        self.told_others: list[Changed] = []

    def publish(self, event: Changed) -> None:
        self.told_others.append(event)
        super().publish(event)

    def tell_here(self, event: Changed) -> None:
        super().publish(event)


async def test_other_replicas_are_not_told_what_they_see_in_the_store_themselves(nursery: trio.Nursery) -> None:
    """PUB-1: each process on one store watches it; told of another's changes, it would hear each twice."""
    store, bus, heard = MemoryDocuments(), Replicated(), list[Changed]()
    bus.subscribe(heard.append)
    await nursery.start(follow, store, bus)
    await store.write([document("n/a")])
    await trio.testing.wait_all_tasks_blocked()
    assert heard == [Changed("resource", "docs:///n/a"), Changed("resources")]
    assert bus.told_others == []


class Flaky(MemoryDocuments):
    """A store whose watch ends with an error the first time."""

    failed = False

    async def watch(self, notice: Any, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        if not self.failed:
            self.failed = True
            task_status.started()
            raise StoreUnreachable("gone for a moment")
        await super().watch(notice, task_status=task_status)


async def test_watching_that_fails_begins_again_and_tells_that_anything_may_have_changed(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """PUB-1: what happened in between is not lost on those who listen."""
    store, bus, heard = Flaky(), LocalBus(), list[Changed]()
    bus.subscribe(heard.append)
    async with trio.open_nursery() as nursery:
        await nursery.start(follow, store, bus)
        await trio.sleep(RETRY_S - 1)
        assert heard == [], "it gives the store a rest"
        await trio.sleep(2)
        await store.write([document("n/a")])
        await trio.testing.wait_all_tasks_blocked()
        await store.write([document("n/a", "other words")])
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    anything = [Changed("resource"), Changed("resources")]
    told = Changed("resource", "docs:///n/a")
    assert heard == [*anything, told, Changed("resources"), told], "no entry of the listing has changed in the end"
    assert "gone for a moment" in caplog.text


class Away(MemoryDocuments):
    """A store that cannot be watched while it is away."""

    away = True

    async def watch(self, notice: Any, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        if self.away:
            await trio.lowlevel.checkpoint()
            raise StoreUnreachable("away")
        await super().watch(notice, task_status=task_status)


async def test_a_store_that_is_away_holds_no_start_and_is_said_once(
    nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Law 7: documents are missing, and all else is served; one line for the outage, one for its end."""
    store, bus = Away(clock=lambda: 0.0), LocalBus()
    heard: list[Changed] = []
    bus.subscribe(heard.append)
    with trio.fail_after(1):
        await nursery.start(follow, store, bus)
    await trio.sleep(20 * RETRY_S)
    assert (len(caplog.records), heard) == (1, [])
    store.away = False
    await trio.sleep(2 * RETRY_S)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert heard == [Changed("resource", None), Changed("resources")]
