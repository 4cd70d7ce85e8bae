"""Documents as records of the three indices, and back.

What a hit shows is stored beside what finds it, so that no more than a hit's own chunk is loaded.

Called by: `writes`, `reads`, `reconciling`. Pure. Deliberately not: which record is written when (`writes`).
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal

import msgspec

from mcpd.storage import putting, words
from mcpd.storage.documents import Document, Head, Put, Span
from mcpd.storage.elasticsearch.analysis import words_of
from mcpd.storage.elasticsearch.indices import MAX_DIMENSIONS, PART_ITEMS, vector_field
from mcpd.storage.elasticsearch.keys import MAX_URI_CHARS, leaf_of, number_of, sortable, uri_key
from mcpd.storage.fields import METADATA, TIMES, Key, calendar_label, head_of, seconds_of, values

Json = dict[str, Any]
Kind = Literal["document", "tombstone", "relation"]
INTERVALS: Final[tuple[Literal["day", "month", "year"], ...]] = ("day", "month", "year")


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What `metadata` says of a URI: a document with its version, or a tombstone where there was one."""

    kind: Kind
    uri: str
    version: str
    previous: str = ""
    """The version before; searches that lag behind may still find it."""
    number: int = -1
    head: bytes = b""
    fields: dict[str, list[str]] = {}
    days: dict[str, list[str]] = {}
    model: str | None = None
    dims: int = 0
    chunks: int = 0
    vectors: int = 0
    size: int = 0
    listed: int = -1
    """Sequence number of the write that made or removed the document; -1: this one."""
    changed_s: float = 0.0

    @property
    def live(self) -> bool:
        """Whether it is a document."""
        return self.kind == "document"


class Place(msgspec.Struct, frozen=True, array_like=True):
    """A chunk as hits tell of it: its span, and its text, or how that begins."""

    start: int
    end: int
    heading: str
    text: str

    @property
    def span(self) -> Span:
        """The span."""
        return Span(self.start, self.end, self.heading)


_HEAD: Final = msgspec.json.Decoder(Head)
_PLACE: Final = msgspec.json.Decoder(Place)


def checked(put: Put) -> Put:
    """Return the change as it will be stored. Raises: ValueError saying what is wrong with it."""
    put = putting.prepared(put)
    if len(put.uri) > MAX_URI_CHARS:
        raise ValueError(f"a URI of {len(put.uri)} characters is too long: at most {MAX_URI_CHARS}")
    if put.vectors and not 1 <= len(put.vectors[0]) <= MAX_DIMENSIONS:
        raise ValueError(f"vectors of {len(put.vectors[0])} dimensions: Elasticsearch takes 1 to {MAX_DIMENSIONS}")
    return put


def state(record: Record | None) -> putting.State | None:
    """Return what decides about a change of a document that is there."""
    if record is None or not record.live:
        return None
    head = head_in(record.head)
    return putting.State(record.version, head.digest, head.origin, record.model if record.vectors else None)


def head_in(data: bytes | str) -> Head:
    """Return the head in a record, or in a hit's field, where it is in base64."""
    return _HEAD.decode(b64decode(data) if isinstance(data, str) else data)


def place_in(data: str) -> Place:
    """Return the chunk in a hit's field."""
    return _PLACE.decode(b64decode(data))


def document_record(put: Put, document: Document, previous: Record | None, listed: int) -> Record:
    """Return the record that commits `document`."""
    fields, days = _values(document)
    return Record(
        kind="document",
        uri=put.uri,
        version=document.version,
        previous=previous.version if previous is not None and previous.live else "",
        number=number_of(document.version),
        head=msgspec.json.encode(head_of(document)),
        fields=fields,
        days=days,
        model=put.model if put.vectors else None,
        dims=len(put.vectors[0]) if put.vectors else 0,
        chunks=len(put.spans),
        vectors=len(put.vectors or ()),
        size=document.size,
        listed=listed,
        changed_s=document.updated_s,
    )


def content_records(put: Put, record: Record) -> Iterator[tuple[Literal["fulltext", "vector"], str, Json]]:
    """Return (index, id, source) of what the version consists of besides its record."""
    shared = {
        "uri": record.uri,
        "version": record.version,
        "number": record.number,
        "head": b64encode(record.head).decode(),
        "fields": record.fields,
        "days": record.days,
        "written_s": record.changed_s,
    }
    yield "fulltext", content_id(record), {**shared, "content": _content(put), "chunks": list(_chunks(put))}
    for part, first in enumerate(range(0, record.vectors, PART_ITEMS)):
        chunks = list(_vectors(put, first))
        yield "vector", vector_ids(record)[part], {**shared, "model": record.model, "chunks": chunks}


def content_id(record: Record) -> str:
    """Return the id of a version's content."""
    return f"{uri_key(record.uri)}.{record.version}"


def vector_ids(record: Record) -> list[str]:
    """Return the ids of a version's vectors."""
    return [f"{content_id(record)}.{part}" for part in range(-(-record.vectors // PART_ITEMS))]


def _content(put: Put) -> Json:
    spans = [(span.start, span.end, span.heading) for span in put.spans]
    blob = put.document.blob
    return {"text": put.document.text, "blob": None if blob is None else b64encode(blob).decode(), "spans": spans}


def body_of(content: Json) -> tuple[str | None, bytes | None]:
    """Return text and blob in a content record."""
    blob = content.get("blob")
    return content.get("text"), None if blob is None else b64decode(blob)


def _chunks(put: Put) -> Iterator[Json]:
    for number, (title, heading, text) in enumerate(putting.searchable(put)):
        chunk: Json = {"titles": [words_of(title), words_of(heading)], "words": words_of(text)}
        if put.spans:
            chunk["about"] = _about(put.spans[number], text)
        yield chunk


def _vectors(put: Put, first: int) -> Iterator[Json]:
    text, vectors = put.document.text or "", (put.vectors or ())[first : first + PART_ITEMS]
    for span, vector in zip(put.spans[first:], vectors, strict=False):
        about = _about(span, words.beginning(text[span.start : span.end]))
        yield {vector_field(len(vector)): list(map(float, vector)), "about": about}


def _about(span: Span, text: str) -> str:
    return b64encode(msgspec.json.encode(Place(span.start, span.end, span.heading, text))).decode()


def _values(document: Document) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return what `fields` and `days` hold of a document."""
    pairs: list[tuple[str, Key]] = [("uri", document.uri), ("title", document.title)]
    pairs += [("created", document.created_s), ("updated", document.updated_s), *values(document)]
    fields = _by_leaf((name, sortable(key)) for name, key in pairs)
    return fields, _by_leaf(label for name, key in pairs for label in _labels(name, key))


def _by_leaf(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, dict[str, None]] = {}
    for name, text in pairs:
        found.setdefault(leaf_of(name), {})[text] = None
    return {leaf: list(texts) for leaf, texts in found.items()}


def _labels(name: str, key: Key) -> Iterator[tuple[str, str]]:
    """Return the day, month and year of a value that is a time; texts are when they are ISO 8601."""
    if isinstance(key, str):
        seconds = seconds_of(key) if name.startswith(METADATA) else None
    else:
        seconds = key if isinstance(key, float) and name in TIMES else None
    labels = [] if seconds is None else [(i, calendar_label(seconds, i)) for i in INTERVALS]
    yield from ((f"{name}/{interval}", text) for interval, text in labels if text is not None)
