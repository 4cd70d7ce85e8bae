"""Elasticsearch's REST interface as values: functions that build requests, and functions that read answers.

    request = api.search(["docs"], {"query": {"match_all": {}}})
    answer = await client.perform(request)
    for hit in api.found(answer).hits.hits: ...

A `Request` says besides what is asked how it may be sent: `repeatable` ones may be sent again when nobody knows what
became of the first; `writes` tells those that change something. A write is repeatable only if a second one does no harm
or is refused: with a fixed id and a condition, or where it sets what it set before.

Called by: adapters in `storage`, `drivers.elasticsearch`. Pure. Deliberately not: a query language; a search's body is
Elasticsearch's own JSON, as a value or encoded. No vendor media types: plain JSON works on 7, 8, 9 and OpenSearch.

Law: names and ids are percent-encoded here, so that none reaches further than its own part of a path.
Source: elastic.co/docs/api/doc/elasticsearch (8.19).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from mcpd.drivers.elasticsearch_errors import ElasticsearchError, Failure, Garbled, Missing, NotExecuted, judge

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
T = TypeVar("T")
Body = Mapping[str, Any] | bytes
Refresh = Literal["", "false", "wait_for", "true"]
Deadline = Literal["none", "query", "lines"]
"""How a request says how long the server has: not at all, `?timeout=`, or `timeout` in each search of `_msearch`."""


class Request(NamedTuple):
    """One request. `path` is percent-encoded and without a query; `name` is what is observed."""

    name: str
    method: str
    path: str
    query: Mapping[str, str] = {}
    body: bytes = b""
    content_type: str = JSON
    repeatable: bool = False
    writes: bool = False
    deadline: Deadline = "none"


class Answer(NamedTuple):
    """An answer of status 2xx. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the decoded body. Raises: Garbled."""
        return shaped(self.body, Any)


class Condition(NamedTuple):
    """When a write of a document takes effect: at this version of it, where none is, or above an external version."""

    seq_no: int = -1
    primary_term: int = -1
    create: bool = False
    external: int = -1

    def query(self) -> dict[str, str]:
        """Return the condition as parameters of a write."""
        found = {name: str(value) for name, value in self.metadata().items()}
        return {**found, "op_type": "create"} if self.create else found

    def metadata(self) -> dict[str, int | str]:
        """Return the condition as metadata of an item of `_bulk`, `create` aside."""
        if self.seq_no >= 0:
            return {"if_seq_no": self.seq_no, "if_primary_term": self.primary_term}
        return {"version": self.external, "version_type": "external"} if self.external >= 0 else {}


ALWAYS: Final = Condition()
CREATE: Final = Condition(create=True)


def shaped(body: bytes, form: type[T]) -> T:
    """Return a body as `form`, a type as msgspec knows them. Raises: Garbled."""
    try:
        return msgspec.json.decode(body, type=form)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Garbled(f"the answer cannot be understood: {error}") from None


def encoded(body: Body) -> bytes:
    """Return a body as it is sent."""
    return body if isinstance(body, bytes) else msgspec.json.encode(body)


def _path(*parts: str) -> str:
    return "".join([f"/{quote(part, safe=',*')}" for part in parts])


def _names(names: Iterable[str]) -> str:
    return ",".join(names)


# Documents


def get_document(index: str, key: str, *, routing: str = "", source: str = "true") -> Request:
    """Read one document by its id, as of now. `source`: false, or which fields; answered 404 where none is."""
    query = {"_source": source, **({"routing": routing} if routing else {})}
    return Request("get", "GET", _path(index, "_doc", key), query, repeatable=True)


def get_documents(index: str, documents: Sequence[Mapping[str, Any]]) -> Request:
    """Read several documents (`{"_id": ..., "routing": ...}`) in one go; see `documents`."""
    body = msgspec.json.encode({"docs": documents})
    return Request("mget", "POST", _path(index, "_mget"), body=body, repeatable=True)


def put_document(
    index: str, key: str, source: Body, *, condition: Condition = ALWAYS, routing: str = "", refresh: Refresh = ""
) -> Request:
    """Write one document; see `written`. Repeatable if it has a condition."""
    query = _write_query(condition, routing, refresh)
    return _write("index", "PUT", _path(index, "_doc", key), query, encoded(source), repeatable=condition != ALWAYS)


def delete_document(
    index: str, key: str, *, condition: Condition = ALWAYS, routing: str = "", refresh: Refresh = ""
) -> Request:
    """Delete one document; answered 404 where none is."""
    query = _write_query(condition, routing, refresh)
    return _write("delete", "DELETE", _path(index, "_doc", key), query, repeatable=condition != ALWAYS)


def _write_query(condition: Condition, routing: str, refresh: Refresh) -> dict[str, str]:
    query = condition.query()
    if routing:
        query["routing"] = routing
    if refresh:
        query["refresh"] = refresh
    return query


def _write(
    name: str, method: str, path: str, query: Mapping[str, str], body: bytes = b"", *, repeatable: bool
) -> Request:
    return Request(name, method, path, query, body, repeatable=repeatable, writes=True, deadline="query")


# Searching


def search(indices: Sequence[str], body: Body, **query: str) -> Request:
    """Search. With a `pit` in the body `indices` are empty. Partial results are errors, never answers."""
    path = _path(_names(indices), "_search") if indices else "/_search"
    asked = {"allow_partial_search_results": "false", **query}
    return Request("search", "POST", path, asked, encoded(body), repeatable=True, deadline="query")


def search_many(searches: Iterable[tuple[Mapping[str, Any], Body]], **query: str) -> Request:
    """Do several searches, each a header (`{"index": ..., "routing": ...}`) and a body without `timeout`."""
    lines = [line for header, body in searches for line in (_header(header), encoded(body), b"\n")]
    return Request("msearch", "POST", "/_msearch", query, b"".join(lines), NDJSON, repeatable=True, deadline="lines")


def _header(header: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode({"allow_partial_search_results": False, **header}) + b"\n"


def count(indices: Sequence[str], body: Body) -> Request:
    """Count what a query finds."""
    return Request("count", "POST", _path(_names(indices), "_count"), body=encoded(body), repeatable=True)


def open_pit(indices: Sequence[str], keep_alive: str = "1m", *, opensearch: bool = False) -> Request:
    """Open a point in time; see `pit_id`. A search goes on with `pit` and `search_after`."""
    path = _path(_names(indices), "_search", "point_in_time") if opensearch else _path(_names(indices), "_pit")
    return Request("open_pit", "POST", path, {"keep_alive": keep_alive}, repeatable=True)


def close_pit(identifier: str, *, opensearch: bool = False) -> Request:
    """Close a point in time."""
    if opensearch:
        body = msgspec.json.encode({"pit_id": [identifier]})
        return Request("close_pit", "DELETE", "/_search/point_in_time", body=body, repeatable=True)
    return Request("close_pit", "DELETE", "/_pit", body=msgspec.json.encode({"id": identifier}), repeatable=True)


# Indices


def create_index(index: str, body: Body) -> Request:
    """Create an index; 400 resource_already_exists_exception where there is one."""
    return _write("create_index", "PUT", _path(index), {}, encoded(body), repeatable=False)


def delete_index(index: str) -> Request:
    """Delete an index by its concrete name."""
    return _write("delete_index", "DELETE", _path(index), {}, repeatable=False)


def get_index(*indices: str) -> Request:
    """Read settings, mappings and aliases of indices; names may hold `*`."""
    return Request("get_index", "GET", _path(_names(indices)), repeatable=True)


def put_mapping(index: str, body: Body) -> Request:
    """Add fields to a mapping, or change its `_meta`."""
    return _write("put_mapping", "PUT", _path(index, "_mapping"), {}, encoded(body), repeatable=True)


def put_template(name: str, body: Body) -> Request:
    """Write a composable index template."""
    path = _path("_index_template", name)
    return Request("put_template", "PUT", path, body=encoded(body), repeatable=True, writes=True)


def delete_template(name: str) -> Request:
    """Delete a composable index template."""
    return Request("delete_template", "DELETE", _path("_index_template", name), writes=True)


def get_aliases(*aliases: str) -> Request:
    """Read which indices aliases lead to."""
    return Request("get_aliases", "GET", _path("_alias", _names(aliases)), repeatable=True)


def update_aliases(actions: Sequence[Mapping[str, Any]]) -> Request:
    """Change aliases, all at once or none."""
    body = msgspec.json.encode({"actions": actions})
    return _write("update_aliases", "POST", "/_aliases", {}, body, repeatable=False)


def put_block(index: str, block: str = "write") -> Request:
    """Let an index take no more writes; answered when the last one is through."""
    return _write("put_block", "PUT", _path(index, "_block", block), {}, repeatable=True)


def refresh(*indices: str) -> Request:
    """Let searches see what has been written."""
    return Request("refresh", "POST", _path(_names(indices), "_refresh"), repeatable=True)


def analyze(body: Body, index: str = "") -> Request:
    """Ask what an analyser makes of a text; 400 for one that the cluster does not have."""
    path = _path(index, "_analyze") if index else "/_analyze"
    return Request("analyze", "POST", path, body=encoded(body), repeatable=True)


# The cluster


def cluster_health(**query: str) -> Request:
    """Read whether the shards are there."""
    return Request("health", "GET", "/_cluster/health", query, repeatable=True)


def nodes_info() -> Request:
    """Read the nodes' versions and addresses; works where `GET /` does not."""
    query = {"filter_path": "nodes.*.version,nodes.*.roles,nodes.*.http.publish_address"}
    return Request("nodes", "GET", "/_nodes/http", query, repeatable=True)


def tasks(actions: str) -> Request:
    """Read which tasks run, by a pattern such as `*search*`."""
    return Request("tasks", "GET", "/_tasks", {"actions": actions, "detailed": "true"}, repeatable=True)


# Answers


class Document(msgspec.Struct, frozen=True, rename=lambda name: name if name == "found" else f"_{name}"):
    """One document as `get_document` and `get_documents` give it. `source` is undecoded JSON, empty without one."""

    index: str = ""
    id: str = ""
    found: bool = False
    version: int = -1
    seq_no: int = -1
    primary_term: int = -1
    routing: str = ""
    source: msgspec.Raw = msgspec.Raw()


class Written(msgspec.Struct, frozen=True, rename=lambda name: name if name == "result" else f"_{name}"):
    """What became of a write. `result` is created, updated, deleted, noop or not_found."""

    id: str = ""
    version: int = -1
    seq_no: int = -1
    primary_term: int = -1
    result: str = ""


_HIT_NAMES: Final = {
    name: f"_{name}" for name in ("index", "id", "score", "seq_no", "primary_term", "routing", "source")
}


class Hit(msgspec.Struct, frozen=True, rename=_HIT_NAMES):
    """One hit. `sort` are the values that `search_after` goes on from."""

    index: str = ""
    id: str = ""
    score: float | None = None
    source: msgspec.Raw = msgspec.Raw()
    seq_no: int = -1
    primary_term: int = -1
    routing: str = ""
    sort: list[Any] = []
    highlight: dict[str, list[str]] = {}
    fields: dict[str, Any] = {}


class Total(msgspec.Struct, frozen=True):
    """How many there are: exactly (`eq`), or at least (`gte`)."""

    value: int = 0
    relation: str = "eq"


class HitList(msgspec.Struct, frozen=True):
    """The hits of a search within its answer."""

    hits: list[Hit] = []
    total: Total = Total()


class Found(msgspec.Struct, frozen=True):
    """The answer of a search."""

    hits: HitList = HitList()
    timed_out: bool = False
    pit_id: str = ""
    aggregations: dict[str, Any] = {}


class _One(Found, frozen=True):
    status: int = 200
    error: Failure | None = None


class _Found(msgspec.Struct, frozen=True):
    responses: list[_One]


class _Fetched(Document, frozen=True, rename={"error": "error"}):
    error: Failure | None = None


class _Documents(msgspec.Struct, frozen=True):
    docs: list[_Fetched]


class _Pit(msgspec.Struct, frozen=True):
    id: str = ""
    pit_id: str = ""


def document(answer: Answer) -> Document:
    """Read `get_document`'s answer. Raises: Garbled."""
    return shaped(answer.body, Document)


def documents(answer: Answer) -> list[Document]:
    """Read `get_documents`' answer, in the order asked. Raises: Garbled; Missing of an index; NotExecuted."""
    docs = shaped(answer.body, _Documents).docs
    for cause in (one.error.root for one in docs if one.error is not None):
        error = Missing if cause.type == "index_not_found_exception" else NotExecuted
        raise error(f"{cause.type}: {cause.reason}", kind=cause.type or "")
    return list[Document](docs)


def written(answer: Answer) -> Written:
    """Read the answer of a write of one document. Raises: Garbled."""
    return shaped(answer.body, Written)


def found(answer: Answer) -> Found:
    """Read `search`'s answer. Raises: Garbled."""
    return shaped(answer.body, Found)


def found_many(answer: Answer) -> list[Found | ElasticsearchError]:
    """Read `search_many`'s answer, in the order asked, each error as a value in its place. Raises: Garbled."""
    return [
        one if one.error is None else judge(one.status, one.error.root) for one in shaped(answer.body, _Found).responses
    ]


def pit_id(answer: Answer) -> str:
    """Read `open_pit`'s answer. Raises: Garbled."""
    found = shaped(answer.body, _Pit)
    return found.id or found.pit_id
