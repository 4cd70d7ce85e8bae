"""What can go wrong between a client and Elasticsearch, by the question that matters: was it done?

    ElasticsearchError
    ├── NotExecuted          it was not done; sending it again does no harm
    │   ├── OutOfTime        a search that the server ended, since its caller's deadline was near
    │   └── Unreachable      nor is there a node that takes requests now
    ├── OutcomeUnknown       a write that may have been done: it was sent, and no answer says what became of it
    ├── Refused              the cluster's final word: malformed, no permission, no such thing
    │   ├── Missing          404: no such document, index, context
    │   ├── Conflict         409: somebody else was first
    │   └── Blocked          403 cluster_block_exception: the index takes no writes now
    └── Garbled              an answer that cannot be used: not of this product, malformed, too long

Every error has `status` (0 without an answer), `kind` (Elasticsearch's error type, or empty) and `reason`, which is
bounded and holds no value of a document where Elasticsearch quotes one.

Called by: `elasticsearch_api`, the package `elasticsearch`, adapters that turn these into errors of their own. Pure.
Deliberately not: retries, which are the client's.

Sources: error types of Elasticsearch 8.19 (`ElasticsearchException`, `RestStatus`); OpenSearch 2 names them alike.
"""

from __future__ import annotations

from typing import Final

import msgspec

from mcpd.errors import McpdError

REASON_CHARS: Final = 300
"""Of what the cluster says, the rest is cut."""


class ElasticsearchError(McpdError):
    """Anything that an Elasticsearch client raises."""

    def __init__(self, text: str, *, status: int = 0, kind: str = "") -> None:
        super().__init__(text)
        self.reason = text
        self.status = status
        self.kind = kind


class NotExecuted(ElasticsearchError):
    """It was not done."""


class Unreachable(NotExecuted):
    """No node takes requests at the moment."""


class OutOfTime(NotExecuted):
    """The server has ended the search: the caller has no time left."""


class OutcomeUnknown(ElasticsearchError):
    """It was sent, and no answer says whether it was done."""


class Refused(ElasticsearchError):
    """The cluster will not do this, however often it is asked."""


class Missing(Refused):
    """There is no such document, index or search context."""


class Conflict(Refused):
    """The document or index is not as the request has it."""


class Blocked(Refused):
    """The index takes no writes now."""


class Garbled(ElasticsearchError):
    """The answer cannot be used: this is no Elasticsearch, or something between has its own mind."""


class Cause(msgspec.Struct, frozen=True):
    """An error within an answer."""

    type: str | None = None
    reason: str | None = None


class Failure(Cause, frozen=True):
    """An error as a whole."""

    root_cause: list[Cause] = []

    @property
    def root(self) -> Cause:
        """What it comes from."""
        return self.root_cause[0] if self.root_cause else self


class _Refusal(msgspec.Struct, frozen=True):
    error: Failure | str | None = None


PASSING: Final = frozenset({502, 503, 504})
"""Statuses that may be gone in a moment."""

_NOT_BEGUN: Final = frozenset(
    {
        "cluster_block_exception",
        "master_not_discovered_exception",
        "no_shard_available_action_exception",
        "unavailable_shards_exception",
    }
)
"""Types of a 503 that is answered before a write has begun."""

_QUOTING: Final = "Preview of field's value"
_decode: Final = msgspec.json.Decoder(_Refusal).decode


def classify(status: int, body: bytes) -> ElasticsearchError:
    """Return the error that an answer with a `status` of 300 or more means."""
    return judge(status, _cause(body))


def judge(status: int, cause: Cause) -> ElasticsearchError:
    """Return the error of a status and its cause, of an answer as of one item or search within an answer."""
    kind, said = cause.type or "", (cause.reason or "").partition(_QUOTING)[0]
    said = said.strip()[:REASON_CHARS]
    text = f"{status} {kind}: {said}" if kind else f"{status} {said}".strip()
    return _class(status, kind)(text, status=status, kind=kind)


def _class(status: int, kind: str) -> type[ElasticsearchError]:
    if status == 429 or (status == 503 and kind in _NOT_BEGUN):
        return NotExecuted
    if kind == "search_timeout_exception":
        return OutOfTime
    if status >= 500:
        return OutcomeUnknown
    if kind == "cluster_block_exception":
        return Blocked
    return _REFUSALS.get(status, Refused)


_REFUSALS: Final[dict[int, type[Refused]]] = {404: Missing, 409: Conflict}


def passes(error: OutcomeUnknown) -> bool:
    """Return whether asking again soon may have another outcome: the connection was lost, or a node was overtaxed."""
    return error.status in PASSING or not error.status


def twice(error: ElasticsearchError) -> OutcomeUnknown:
    """Return what `error` means for a write that has been sent before, without an answer."""
    text = f"sent twice: the first time no answer came, then: {error}"
    return OutcomeUnknown(text, status=error.status, kind=error.kind)


def _cause(body: bytes) -> Cause:
    """Return what the body says went wrong, its root where it names one; empty when this is no error of theirs."""
    try:
        error = _decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Cause()
    return error.root if isinstance(error, Failure) else Cause(reason=error)
