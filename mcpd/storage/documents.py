"""What mcpd asks of a document store, and what it may rely on: the contract of every backend.

Written for a distributed store first; an embedded one obeys it too. `Documents` is one store seen as a whole: the
documents themselves, their chunks in a full-text and a vector index, their metadata, and the relations between them.

Called by: `search`, `ingest`, `resources`, the commands; opened by `storage.open`. Implemented by: `storage.memory`,
`storage.sqlite.documents`. Values and Protocols; nothing here runs. Deliberately not: ranking across retrievers
(`search.fusion`), embedding, chunking, or the grammar of queries (`search.query`).

The contract
- *Acknowledged means durable.* When `write` returns an outcome that is not `failed`, that change survives the death of
  the process; what it returned nothing for may or may not have happened, but each change is whole or absent.
- *Versions.* Every stored state of a document has a version, an opaque string, never used twice for one URI, also not
  after a removal. A change may name the version it expects; a different one is a `conflict`, and nothing happened.
- *Freshness.* `get` and `related` see every acknowledged change. Listings, searches and facets may lag behind until
  `refresh` has returned. Callers that must not wait do not call it.
- *One writer's order.* Changes to one URI take effect in the order in which one caller was acknowledged.
- *Cursors* are opaque, survive a restart, and never show an item twice that did not change, nor skip one. A cursor of
  another query is refused with `BadCursor`.
- *Notices.* `watch` reports every change by whatever process, at least once, within about a second.
- *Cancellation.* Reads stop soon when cancelled. A cancelled `write` has applied each of its changes wholly or not.
- *Bounds.* Whoever calls gives `limit`; a backend never returns more, and never loads more than it must.

Sources: architecture laws 6, 7, 11, 12.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec
import trio

from mcpd.errors import McpdError

Json = dict[str, Any]
Scalar = str | int | float | bool


class StorageError(McpdError):
    """A store could not do what it was asked to; the text says why and what to do, to an operator.

    `store` says what it was, in an error that its caller would take for another one's.
    """

    store = ""


class StoreUnreachable(StorageError):
    """The store does not answer now; the same request may succeed later."""


class BadCursor(StorageError):
    """The cursor is not of this query, or not one of ours."""


class BadQuery(StorageError):
    """A filter, facet or sort that this grammar does not have; the text names the field."""


class TooLong(StorageError):
    """What a caller wants to have kept is longer than a store may keep; the text says by how much."""


class Span(msgspec.Struct, frozen=True):
    """A chunk: `text[start:end]` of its document, in characters, under `heading` ("" when there is none)."""

    start: int
    end: int
    heading: str = ""


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A stored document. Exactly one of `text` and `blob` is set, or neither (stored without text)."""

    uri: str
    title: str
    mime_type: str
    text: str | None = None
    blob: bytes | None = None
    tags: tuple[str, ...] = ()
    metadata: Json = {}
    origin: str | None = None
    """The source root that owns this URI, when an ingest does; nobody else's ingest may change it."""
    digest: str
    """Hash of the content and of all that describes it: equal digests need no write."""
    size: int = 0
    """Bytes of the content."""
    created_s: float = 0.0
    """Seconds since the epoch of the first version, and of this one."""
    updated_s: float = 0.0
    version: str = ""


class Put(msgspec.Struct, frozen=True, kw_only=True):
    """Store `document`, replacing what is there.

    `created_s`, `updated_s` and `version` of the document are the store's to fill in. `vectors`, when given, has one
    unit vector for each span, made by `model`. `expected` None: whatever is there; "": nothing may be there yet.
    """

    document: Document
    spans: tuple[Span, ...] = ()
    vectors: tuple[Sequence[float], ...] | None = None
    model: str | None = None
    expected: str | None = None

    @property
    def uri(self) -> str:
        """The document's URI."""
        return self.document.uri


class Remove(msgspec.Struct, frozen=True, kw_only=True):
    """Remove the document, its chunks and its relations as a source."""

    uri: str
    expected: str | None = None


Change = Put | Remove
Status = Literal["created", "updated", "unchanged", "removed", "absent", "conflict", "foreign", "failed"]


class Outcome(msgspec.Struct, frozen=True):
    """What became of one change.

    `unchanged`: the digest was the same. `absent`: nothing was there to remove. `conflict`: another version than
    expected. `foreign`: the URI belongs to another origin. `failed`: `reason` says why; the others are acknowledged.
    """

    uri: str
    status: Status
    version: str = ""
    reason: str = ""


class Relation(msgspec.Struct, frozen=True):
    """`source` relates to `target` as `kind` says; both are URIs, the target need not exist."""

    source: str
    kind: str
    target: str


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """A document without its content: what listings show."""

    uri: str
    title: str
    mime_type: str
    tags: tuple[str, ...]
    metadata: Json
    size: int
    created_s: float
    updated_s: float
    version: str
    digest: str
    origin: str | None


class Page(msgspec.Struct, frozen=True):
    """A page of a listing in order of URI; `cursor` None: there is no more."""

    items: list[Head]
    cursor: str | None


class Condition(msgspec.Struct, frozen=True):
    """One field has to fit.

    `field` is `uri`, `origin`, `tags`, `mimeType`, `created`, `updated` or `metadata.<path>`, where a path goes through
    objects by dots. `any_of`: equal to one of these (for a list: one member is). `least`/`most` with their `open`
    flags: an interval of numbers, or of strings (ISO 8601 times for `created` and `updated`). `exists`: the field has
    a value, or has none. `prefix`: a string that begins so. All that is given must hold.
    """

    field: str
    any_of: tuple[Scalar, ...] | None = None
    least: Scalar | None = None
    least_open: bool = False
    most: Scalar | None = None
    most_open: bool = False
    exists: bool | None = None
    prefix: str | None = None


Where = tuple[Condition, ...]
"""All conditions must hold; the empty one holds for all documents."""


class Sort(msgspec.Struct, frozen=True):
    """Order by a field (as in `Condition`, or `title`) instead of by score; documents without it come last."""

    field: str
    descending: bool = False


class Matching(msgspec.Struct, frozen=True, kw_only=True):
    """A full-text query. Words are ORed, "quoted words" are phrases; an empty text fits every document.

    A word that ends in `*` fits all words that begin so. Backends fold case and accents, and may fold endings. Words
    are looked for in titles, headings and chunks; all else in the text only separates them. `highlight` is how many
    fragments are wanted of each hit (0: none).
    """

    text: str
    where: Where = ()
    sort: Sort | None = None
    limit: int = 10
    cursor: str | None = None
    highlight: int = 0


class Near(msgspec.Struct, frozen=True, kw_only=True):
    """A vector query: the documents whose nearest chunk made by `model` is closest to the unit vector."""

    vector: Sequence[float]
    model: str
    where: Where = ()
    limit: int = 10
    highlight: int = 0
    """Other than 0: each hit says how its chunk begins. No word is marked."""


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A document that fits, by its best chunk. Higher scores are better; scores of two queries do not compare."""

    head: Head
    score: float
    span: Span | None
    fragments: tuple[str, ...] = ()
    """Pieces of the text with each match between MARK_START and MARK_END."""
    beginning: str = ""
    """How the chunk begins, on one short line, where `highlight` was asked for and there are no fragments."""


MARK_START, MARK_END = "\ue000", "\ue001"
"""Private-use characters around a match in a fragment; whoever shows the fragment replaces them."""


class Found(msgspec.Struct, frozen=True):
    """Hits in order; `total` documents fit in all; `cursor` None: there is no more."""

    hits: list[Hit]
    total: int
    cursor: str | None = None


class Facet(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of documents by a field's values.

    `terms`: the `size` most frequent values. `range`: `edges` are (from, to) pairs, from inclusive, to exclusive, None
    open. `date`: by calendar `interval` (day, month, year; UTC) of a time field.
    """

    field: str
    kind: Literal["terms", "range", "date"] = "terms"
    size: int = 10
    edges: tuple[tuple[float | None, float | None], ...] = ()
    interval: Literal["day", "month", "year"] = "month"


class Bucket(msgspec.Struct, frozen=True):
    """One value of a facet and how many documents have it."""

    value: str
    count: int


class Statistics(msgspec.Struct, frozen=True):
    """What is in a store."""

    documents: int
    chunks: int
    vectors: int
    bytes: int


class Notice(msgspec.Struct, frozen=True):
    """A document was written or removed; `listed` when the set of documents changed with it.

    `uri` None: too much changed to say what; everything may be different.
    """

    uri: str | None
    listed: bool


class SchemaState(msgspec.Struct, frozen=True):
    """Which version the schema has where the store is, and the one that this mcpd works with."""

    store: str
    """The kind of store, such as `sqlite`."""
    place: str
    exists: bool
    version: int
    """0 for a store that does not exist yet."""
    latest: int


class Schema(Protocol):
    """The versions of a store's schema. Opening a store brings it up to date as well. Errors: StorageError."""

    async def status(self) -> SchemaState:
        """Return the state. Changes nothing and makes nothing."""

    async def up(self, target: int | None = None) -> SchemaState:
        """Go up to `target`, by default the latest, and return the state then; a store that is not there is made."""

    async def down(self, target: int) -> SchemaState:
        """Go down to `target` and return the state then. What only the newer version has is lost."""


class Documents(Protocol):
    """A store of documents; see the contract above. Errors everywhere: StorageError and its kinds."""

    async def ping(self) -> None:
        """Return when the store answers, having asked it as little as possible."""

    async def write(self, changes: Sequence[Change]) -> list[Outcome]:
        """Apply changes, each by itself, and return one outcome for each, in order."""

    async def get(self, uri: str) -> Document | None:
        """Return the document as it is now."""

    async def versions(self, uris: Sequence[str]) -> Mapping[str, tuple[str, str]]:
        """Return uri -> (version, digest) of those that exist."""

    async def page(self, where: Where, cursor: str | None, limit: int) -> Page:
        """Return a page of what fits, in order of URI. Raises: BadCursor, BadQuery."""

    async def match(self, query: Matching) -> Found:
        """Search by words. Raises: BadCursor, BadQuery."""

    async def nearest(self, query: Near) -> list[Hit]:
        """Search by vector, at most `limit` documents, the nearest first. Raises: BadQuery."""

    async def facets(self, text: str, where: Where, facets: Sequence[Facet]) -> dict[str, list[Bucket]]:
        """Count what fits the words and the conditions, by field. Raises: BadQuery."""

    async def relate(self, relation: Relation) -> bool:
        """Store a relation; False when it was there already."""

    async def unrelate(self, relation: Relation) -> bool:
        """Remove a relation; False when there was none."""

    async def related(self, uri: str, limit: int) -> list[Relation]:
        """Return relations whose source or target is `uri`, in a stable order."""

    async def refresh(self) -> None:
        """Return when everything acknowledged before the call shows up in listings, searches and facets."""

    async def statistics(self) -> Statistics:
        """Count what is there."""

    async def watch(
        self, notice: Callable[[Notice], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Call `notice` for every later change until cancelled; it must neither block nor raise."""
