"""The resources of this server: listing them, finding the one behind a URI, reading it.

`ResourceManager` holds two catalogs, exact resources by URI and templates by URI template, swapped together. URIs are
compared in normal form (`wire.uris`); a listing shows them as declared, and a read as they were asked for. An exact
resource wins over a template; among templates the first declared one that matches. Stored documents come after what is
declared, in a listing and when a URI is looked for.

Called by: `service`. Calls: `resources.documents`, `resources.cache`. Deliberately not: a file server, or the runner of
functions (`Run` is handed in). What a template function does with its values is its own matter; that none is a
traversal is ours (`resources.templates`).

Laws: what a caller may not see does not exist for it, in a listing as in a read (RSC-3, SEC-5); a read never answers
with empty contents (RSC-2); a result that depends on who asks is private (RES-4).

Sources: MCP 2026-07-28 server/resources (RSC-1..3), RES-3, RES-4.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import Any

from mcpd.authoring.content import Audio, Embedded, Image, Text
from mcpd.authoring.declarations import ResourceDeclaration
from mcpd.authoring.functions import Run, call, described
from mcpd.authoring.signatures import ArgumentError, inspect_function
from mcpd.catalog import Catalog, Listing, Paging
from mcpd.errors import InvalidParams, RegistrationError, ResourceNotFound
from mcpd.resources.cache import Key, ResourceCache
from mcpd.resources.documents import TEMPLATE, DocumentResources, cut
from mcpd.resources.templates import Template, is_template, is_uri
from mcpd.storage.uris import canonical, is_document
from mcpd.wire.call import ANONYMOUS, Principal
from mcpd.wire.cursors import decode_cursor, encode_cursor
from mcpd.wire.uris import normalise

Content = dict[str, Any]
DOCUMENT_TTL_S = 300.0
"""Of a document in the cache; every change is told, this is for one whose notice was lost."""
_KIND = "documents"
"""Binds the cursors of the documents' part of a listing."""


class Resource:
    """One declaration made ready: its template parsed, its listing entry built."""

    def __init__(self, declaration: ResourceDeclaration) -> None:
        self.declaration = declaration
        self.uri: str = declaration.uri
        self.scopes: frozenset[str] = frozenset(getattr(declaration, "scopes", ()))
        self.template = Template(self.uri) if is_template(self.uri) else None
        self._signature = inspect_function(declaration.fn, strict=False)
        self._check()
        self.entry = _entry(declaration, "uri" if self.template is None else "uriTemplate", self._signature.description)

    def _check(self) -> None:
        where = f"resource {self.uri!r}"
        if self.template is None and not is_uri(self.uri):
            raise RegistrationError(f"{where} is not an absolute URI, such as 'notes://today'")
        variables = () if self.template is None else self.template.variables
        takes = {argument.name: argument.required for argument in self._signature.arguments}
        for name in variables:
            if name not in takes:
                raise RegistrationError(f"{where}: {described(self.declaration.fn)} has no parameter {name!r}")
        for name, required in takes.items():
            if required and name not in variables:
                raise RegistrationError(f"{where}: nothing gives the parameter {name!r} a value")

    def match(self, uri: str) -> dict[str, str] | None:
        """Return the template's values for `uri`, an empty dict for an exact match, None when it is another's."""
        if self.template is not None:
            return self.template.match(uri)
        return {} if normalise(uri) == normalise(self.uri) else None

    def decode(self, values: dict[str, str]) -> dict[str, Any]:
        """Turn the template's values into keyword arguments of the function. Raises: ArgumentError."""
        return self._signature.decode(values)

    def permits(self, principal: Principal) -> bool:
        """Say whether `principal` holds all scopes that this resource asks for."""
        return principal.held(self.scopes) == self.scopes


class ResourceManager:
    """Lists, finds and reads resources."""

    def __init__(
        self,
        declarations: Iterable[ResourceDeclaration],
        paging: Paging,
        *,
        cache: ResourceCache,
        documents: DocumentResources | None = None,
    ) -> None:
        """Raises: RegistrationError, naming the resource and what is wrong with it."""
        self._paging = paging
        self._cache = cache
        self._documents = documents
        self._declared: list[ResourceDeclaration] = []
        self._exact: Catalog[Resource] = Catalog(_uri_of)
        self._by_form: dict[str, Resource] = {}
        self._templates: Catalog[Resource] = Catalog(_uri_of)
        self._listing = Listing("resources", self._exact, _entry_of, _scopes_of, paging)
        self._template_listing = Listing("resourceTemplates", self._templates, _entry_of, _scopes_of, paging)
        self.replace(declarations)

    def replace(self, declarations: Iterable[ResourceDeclaration]) -> bool:
        """Swap the whole set and say whether anything changed. Raises: RegistrationError, leaving the old set."""
        declared = list(declarations)
        if declared == self._declared:
            return False
        made = [Resource(declaration) for declaration in declared]
        exact = [resource for resource in made if resource.template is None]
        templates = [resource for resource in made if resource.template is not None]
        Catalog(_uri_of, made)
        self._by_form = _by_form(exact)
        self._exact.replace(exact)
        self._templates.replace(templates)
        self._declared = declared
        return True

    def __len__(self) -> int:
        return len(self._exact) + len(self._templates)

    async def list(self, cursor: str | None, principal: Principal = ANONYMOUS) -> dict[str, Any]:
        """Return a page of `resources/list`: what is declared, then the documents.

        Raises: InvalidParams for a bad cursor; StoreUnavailable.
        """
        if self._documents is None:
            return self._listing.page(cursor, principal)
        position = self._document_position(cursor, principal)
        if position is not None:
            return await self._with_documents(
                {**self._listing.page(None, principal), "resources": []}, position, principal
            )
        body = self._listing.page(cursor, principal)
        return body if "nextCursor" in body else await self._with_documents(body, "", principal)

    def _document_position(self, cursor: str | None, principal: Principal) -> str | None:
        try:
            return None if cursor is None else decode_cursor(self._paging.ring, _KIND, cursor, 0, principal.id)
        except InvalidParams:
            return None

    async def _with_documents(self, body: dict[str, Any], position: str, principal: Principal) -> dict[str, Any]:
        """Fill the page up with documents from the store's cursor `position` ("": the first)."""
        assert self._documents is not None
        body.pop("nextCursor", None)
        room = self._paging.page_size - len(body["resources"])
        entries, more = await self._documents.page(position or None, room) if room else ([], position)
        if more is not None:
            body["nextCursor"] = encode_cursor(self._paging.ring, _KIND, more, 0, principal.id)
        return {**body, "resources": [*body["resources"], *entries]}

    def templates(self, cursor: str | None, principal: Principal = ANONYMOUS) -> dict[str, Any]:
        """Return a page of `resources/templates/list`. Raises: InvalidParams for a bad cursor."""
        body = self._template_listing.page(cursor, principal)
        if self._documents is None or "nextCursor" in body:
            return body
        return {**body, "resourceTemplates": [*body["resourceTemplates"], TEMPLATE]}

    def serves(self, uri: str, principal: Principal = ANONYMOUS) -> bool:
        """True when `uri` can be read or subscribed to by this caller; a document may still be absent."""
        if self._documents is not None and is_document(uri):
            return True
        try:
            self.find(uri, principal)
        except InvalidParams:
            return False
        return True

    def find(self, uri: Any, principal: Principal = ANONYMOUS) -> tuple[Resource, dict[str, str]]:
        """Return the resource that serves `uri`, with its template's values. A subscription may ask this, too.

        A template's match does not promise that there is something to read.
        Raises: InvalidParams when `uri` is no absolute URI; ResourceNotFound when nothing serves it for this caller.
        """
        if not isinstance(uri, str) or not is_uri(uri):
            raise InvalidParams("'uri' must be an absolute URI")
        exact = self._by_form.get(normalise(uri))
        if exact is not None and exact.permits(principal):
            return exact, {}
        for resource in self._templates:
            values = resource.match(uri) if resource.permits(principal) else None
            if values is not None:
                return resource, values
        raise ResourceNotFound(uri)

    def template(self, uri_template: str, principal: Principal = ANONYMOUS) -> Template | None:
        """Return the template offered as exactly `uri_template`, if this caller may see it (CMP-1)."""
        if self._documents is not None and uri_template == TEMPLATE["uriTemplate"]:
            return _DOCUMENTS
        resource = self._templates.get(uri_template)
        return resource.template if resource is not None and resource.permits(principal) else None

    async def read(
        self, uri: Any, run: Run, principal: Principal = ANONYMOUS, *, fresh: bool = False
    ) -> dict[str, Any]:
        """Return `{"contents": [...], "ttlMs", "cacheScope"}`; `fresh` asks the function in any case.

        Raises: InvalidParams; ResourceNotFound, also when a value of the URI does not fit the function's parameter or
        the function returns None or an empty list; TypeError naming the function when it returns something else;
        StoreUnavailable.
        """
        try:
            resource, values = self.find(uri, principal)
        except ResourceNotFound:
            if self._documents is None or not is_document(uri):
                raise
            return await self._read_document(self._documents, uri)
        d = resource.declaration
        scope = "private" if resource.scopes else d.cache_scope or "private"

        async def load() -> dict[str, Any]:
            return {"contents": await _contents(resource, uri, values, run)}

        if fresh or not d.ttl_ms:
            result = await load()
        else:
            key = Key(uri, None if scope == "public" else principal.id)
            result = await self._cache.get(key, load, ttl_s=d.ttl_ms / 1000)
        return {**result, "ttlMs": d.ttl_ms or 0, "cacheScope": scope}

    async def _read_document(self, documents: DocumentResources, uri: str) -> dict[str, Any]:
        name = canonical(uri)
        result = await self._cache.get(Key(name, local=True), lambda: documents.read(uri), ttl_s=DOCUMENT_TTL_S)
        return {**cut(result, uri), "ttlMs": 0, "cacheScope": "private"}


_DOCUMENTS = Template(TEMPLATE["uriTemplate"])


async def _contents(resource: Resource, uri: str, values: dict[str, str], run: Run) -> list[Content]:
    try:
        arguments = resource.decode(values)
    except ArgumentError:
        raise ResourceNotFound(uri) from None
    d = resource.declaration
    value = await call(run, d.fn, arguments)
    if value is None or value == []:
        raise ResourceNotFound(uri)
    items = value if isinstance(value, list) else [value]
    return [_content(item, uri, d.mime_type, d.fn) for item in items]


def _content(value: Any, uri: str, mime_type: str | None, fn: Callable[..., Any]) -> Content:
    if isinstance(value, str):
        return _text(uri, mime_type, value)
    if isinstance(value, bytes | bytearray | memoryview):
        encoded = base64.b64encode(value).decode("ascii")
        return {"uri": uri, "mimeType": mime_type or "application/octet-stream", "blob": encoded}
    if isinstance(value, Embedded | Text | Image | Audio):
        return _block_content(value, uri, mime_type)
    raise TypeError(
        f"the resource function {described(fn)} returned {type(value).__name__}; "
        "it may return str, bytes, Embedded, Text, Image, Audio, or a list of these"
    )


def _block_content(value: Embedded | Text | Image | Audio, uri: str, mime_type: str | None) -> Content:
    block = value.block()
    if isinstance(value, Embedded):
        content: Content = block["resource"]
    elif isinstance(value, Text):
        content = _text(uri, mime_type, value.text)
    else:
        content = {"uri": uri, "mimeType": value.mime_type, "blob": block["data"]}
    return content if value.meta is None else {**content, "_meta": value.meta}


def _text(uri: str, mime_type: str | None, text: str) -> Content:
    return {"uri": uri, "mimeType": mime_type or "text/plain", "text": text}


def _entry(declaration: ResourceDeclaration, uri_member: str, description: str | None) -> dict[str, Any]:
    d = declaration
    entry = {
        uri_member: d.uri,
        "name": d.name,
        "title": d.title,
        "description": d.description or description,
        "mimeType": d.mime_type,
        "annotations": d.annotations,
        "icons": d.icons,
        "size": d.size if uri_member == "uri" else None,
        "_meta": d.meta,
    }
    return {key: value for key, value in entry.items() if value not in (None, "", [], {}, ())}


def _by_form(resources: list[Resource]) -> dict[str, Resource]:
    """Return exact resources by the normal form of their URI. Raises: RegistrationError when two share one."""
    found: dict[str, Resource] = {}
    for resource in resources:
        other = found.setdefault(normalise(resource.uri), resource)
        if other is not resource:
            raise RegistrationError(f"resource {resource.uri!r} is declared twice: {other.uri!r} is the same URI")
    return found


def _uri_of(resource: Resource) -> str:
    return resource.uri


def _entry_of(resource: Resource) -> dict[str, Any]:
    return resource.entry


def _scopes_of(resource: Resource) -> frozenset[str]:
    return resource.scopes
