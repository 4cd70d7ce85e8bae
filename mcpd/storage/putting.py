"""What a change has to be, and what becomes of it, decided before anything is stored.

Called by: every backend, so that they refuse the same things in the same words. Pure. Deliberately without a look at
any store: what is there is an argument (`State`), and what comes out is an outcome, or None for "go on".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from mcpd.errors import counted
from mcpd.storage.documents import BadQuery, Document, Outcome, Put, Relation, Remove, Span

MAX_SPANS: Final = 1 << 20
"""Of one document: some 500 MB of text."""


class State(msgspec.Struct, frozen=True):
    """What decides about a change to a document that is there."""

    version: str
    digest: str
    origin: str | None
    model: str | None


def prepared(put: Put) -> Put:
    """Return the change as it will be stored: its metadata as JSON gives it back, its sequences as tuples.

    Raises: ValueError saying what is wrong with it.
    """
    document = put.document
    if not document.uri:
        raise ValueError("a document needs a URI")
    if document.text is not None and document.blob is not None:
        raise ValueError("a document has text or a blob, not both")
    _check_spans(put.spans, document.text)
    _check_vectors(put)
    texts = [document.uri, document.title, document.mime_type, document.digest, document.origin or "", *document.tags]
    texts += [span.heading for span in put.spans]
    try:
        for text in (*texts, put.model or "", document.text or ""):
            text.encode()
        metadata = msgspec.json.decode(msgspec.json.encode(document.metadata), type=dict)
    except UnicodeEncodeError:
        raise ValueError("a text with half a surrogate pair is no Unicode") from None
    except (TypeError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise ValueError(f"the metadata is not JSON: {error}") from None
    return msgspec.structs.replace(put, document=msgspec.structs.replace(document, metadata=metadata))


def _check_spans(spans: tuple[Span, ...], text: str | None) -> None:
    if spans and text is None:
        raise ValueError("spans need a text")
    if len(spans) > MAX_SPANS:
        raise ValueError(f"{len(spans)} spans are too many: at most {MAX_SPANS}")
    length = len(text or "")
    for span in spans:
        if not 0 <= span.start <= span.end <= length:
            raise ValueError(f"the span {span.start}-{span.end} is not within the {length} characters of the text")


def _check_vectors(put: Put) -> None:
    if put.vectors is None:
        return
    if put.model is None:
        raise ValueError("vectors need the name of the model that made them")
    if len(put.vectors) != len(put.spans):
        raise ValueError(f"{counted(len(put.vectors), 'vector')} for {counted(len(put.spans), 'span')}")
    if len({len(vector) for vector in put.vectors}) > 1:
        raise ValueError("the vectors have different dimensions")


def check_dimensions(model: str, known: int, given: int) -> None:
    """Raises: ValueError when vectors of `model` have `known` dimensions and these have others."""
    if known != given:
        raise ValueError(wrong_dimensions(model, known, given))


def wrong_dimensions(model: str, known: int, given: int) -> str:
    """Return the sentence about it."""
    size = counted(known, "dimension")
    return f"the vectors of {model!r} have {size} here, not {given}: give another model another name"


def refusal(put: Put, there: State | None) -> Outcome | None:
    """Return why nothing is to be done, or None. `there` is what is stored under the URI now.

    Another origin's document stays whatever version was expected. Equal digests need no write, except to bring
    vectors of another model; a change without vectors leaves those that are there.
    """
    version = there.version if there else ""
    if there is not None and there.origin != put.document.origin:
        owner = repr(there.origin) if there.origin is not None else "no source root"
        return Outcome(put.uri, "foreign", version, f"the document belongs to {owner}")
    if put.expected is not None and put.expected != version:
        return Outcome(put.uri, "conflict", version)
    same = there is not None and there.digest == put.document.digest
    if there is not None and same and (not put.vectors or there.model == put.model):
        return Outcome(put.uri, "unchanged", version)
    return None


def removal_refusal(change: Remove, version: str | None) -> Outcome | None:
    """Return why nothing is to be removed, or None. `version` is the stored one, None when there is none."""
    if change.expected is not None and change.expected != (version or ""):
        return Outcome(change.uri, "conflict", version or "")
    return Outcome(change.uri, "absent") if version is None else None


def check_relation(relation: Relation) -> None:
    """Raises: BadQuery when one of its parts is no Unicode text."""
    if not all(map(is_unicode, (relation.source, relation.kind, relation.target))):
        raise BadQuery("a text with half a surrogate pair is no Unicode")


def is_unicode(text: str) -> bool:
    """Return whether a store can keep the text; Python's may hold half a surrogate pair."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def searchable(put: Put) -> Iterator[tuple[str, str, str]]:
    """Return (title, heading, text) of each span, the title with the first only; of the title alone without spans."""
    document = put.document
    for number, span in enumerate(put.spans):
        text = (document.text or "")[span.start : span.end]
        yield document.title if number == 0 else "", span.heading, text
    if not put.spans:
        yield document.title, "", ""


def copied(document: Document) -> Document:
    """Return the document with metadata of its own, which the caller may change."""
    return msgspec.structs.replace(document, metadata=msgspec.json.decode(msgspec.json.encode(document.metadata)))
