"""Stored documents as MCP resources: listed, read whole or by span, offered as a template.

A document has the URI `docs:///NAME/relative/path`. A part of its text is read with the fragment `#char=START,END`
(RFC 5147), which is how a search hit cites its place.

Called by: `resources.manager`. Calls: the store through its Protocol. Deliberately not: searching, and who may see
what (documents are for every caller who may read).

Sources: MCP 2026-07-28 server/resources (RSC-1..3); RFC 5147; architecture law 7.
"""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import trio

from mcpd.authoring.declarations import CompletionDeclaration
from mcpd.errors import InvalidParams, ResourceNotFound, counted
from mcpd.events import Bus, Changed
from mcpd.storage.documents import Condition, Document, Documents, Head, Notice, StorageError
from mcpd.storage.refusals import DOCUMENTS, answering
from mcpd.storage.uris import SCHEME, shown, spellings, stored

Entry = dict[str, Any]
RETRY_S = 2.0
"""How long after a failure the store is watched again."""
_log = logging.getLogger(__name__)
TEMPLATE: Entry = {
    "uriTemplate": SCHEME + "{+path}",
    "name": "documents",
    "title": "Documents",
    "description": "An ingested document. Read a part of its text with the fragment #char=START,END.",
}
_MAX_COMPLETIONS_ITEMS = 101
"""One more than is shown, so that a client learns that there are more."""
_SPAN = re.compile(r"char=(\d{1,12}),(\d{1,12})")


class DocumentResources:
    """The documents of a store, as resources."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def page(self, cursor: str | None, limit: int) -> tuple[list[Entry], str | None]:
        """Return listing entries and the store's own cursor for more. Raises: InvalidParams, StoreUnavailable."""
        with answering(DOCUMENTS):
            page = await self._documents.page((), cursor, limit)
        return [_entry(head) for head in page.items], page.cursor

    async def read(self, uri: str) -> dict[str, Any]:
        """Return `{"contents": [...]}` of a whole document, by any spelling of its URI.

        Raises: ResourceNotFound, StoreUnavailable.
        """
        with answering(DOCUMENTS):
            for spelling in spellings(uri):
                document = await self._documents.get(spelling)
                if document is not None:
                    return {"contents": [_content(document)]}
        raise ResourceNotFound(uri)


def path_completion(documents: Documents) -> CompletionDeclaration:
    """Return the completion of the template's `path`: the documents whose path goes on from what is typed.

    Both are decoded text (`storage.uris`): put into the template, a value is the URI of its document.
    """

    async def complete_path(value: str) -> list[str]:
        begun = Condition("uri", prefix=SCHEME + stored(value))
        with answering(DOCUMENTS):
            page = await documents.page((begun,), None, _MAX_COMPLETIONS_ITEMS)
        return [shown(head.uri) for head in page.items]

    return CompletionDeclaration(for_=TEMPLATE["uriTemplate"], fn=complete_path, argument="path")


async def follow(
    documents: Documents, bus: Bus, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Tell of every change of the store until cancelled: one event that reaches caches, listeners and sessions.

    Here alone: each process on the store watches it, so that an event of another's would be heard twice. A store that
    is away is no reason not to start. Once it is watched again, everybody is told that anything may have changed.
    """

    def tell(notice: Notice) -> None:
        bus.tell_here(Changed("resource", notice.uri))
        if notice.listed:
            bus.tell_here(Changed("resources"))

    watch = _Watch(task_status, lambda: tell(Notice(None, listed=True)))
    while True:
        try:
            await documents.watch(tell, task_status=watch)
        except StorageError as error:
            watch.failed(error)
        await trio.sleep(RETRY_S)


class _Watch(trio.TaskStatus[None]):
    """How watching goes: reported once, as begun or as failed; the log has a line for each turn of it."""

    def __init__(self, task_status: trio.TaskStatus[None], again: Callable[[], None]) -> None:
        self._task_status: trio.TaskStatus[None] | None = task_status
        self._again = again
        self._has_failed = False

    def started(self, value: None = None) -> None:  # noqa: ARG002 - the Protocol's
        """Take that the store is watched."""
        if self._has_failed:
            _log.warning("the document store is watched again")
            self._again()
        self._has_failed = False
        self._report()

    def failed(self, error: StorageError) -> None:
        """Take that it is not."""
        if not self._has_failed:
            _log.error("watching the document store failed, trying again every %g s: %s", RETRY_S, error)
        self._has_failed = True
        self._report()

    def _report(self) -> None:
        if self._task_status is not None:
            self._task_status.started()
        self._task_status = None


def cut(result: dict[str, Any], uri: str) -> dict[str, Any]:
    """Return the part that the fragment of `uri` names, the whole without one, under `uri` as it was asked for.

    Raises: InvalidParams for a fragment of another form, a span outside of the text, or a document without text.
    """
    fragment = uri.partition("#")[2]
    content = result["contents"][0]
    if not fragment:
        return {"contents": [{**content, "uri": uri}]}
    found = _SPAN.fullmatch(fragment)
    if found is None or "text" not in content:
        raise InvalidParams("A part of a text is named by the fragment #char=START,END, in characters")
    start, end = int(found[1]), int(found[2])
    if not start <= end <= len(content["text"]):
        raise InvalidParams(
            f"The text has {counted(len(content['text']), 'character')}; #char={start},{end} is not within it"
        )
    return {"contents": [{**content, "uri": uri, "text": content["text"][start:end]}]}


def _content(document: Document) -> Entry:
    content: Entry = {"uri": document.uri, "mimeType": document.mime_type}
    if document.blob is not None:
        content["blob"] = base64.b64encode(document.blob).decode("ascii")
    else:
        content["text"] = document.text or ""
    return content


def _entry(head: Head) -> Entry:
    modified = datetime.fromtimestamp(head.updated_s, UTC).isoformat(timespec="seconds")
    entry: Entry = {
        "uri": head.uri,
        "name": shown(head.uri).rpartition("/")[2] or head.uri,
        "mimeType": head.mime_type,
        "size": head.size,
        "annotations": {"lastModified": modified.replace("+00:00", "Z")},
    }
    if head.title:
        entry["title"] = head.title
    if head.tags:
        entry["_meta"] = {"dev.mcpd/tags": list(head.tags)}
    return entry
