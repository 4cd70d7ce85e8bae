"""Tools of test replicas, and resources that take their time.

`put` stores a document, as any author's tool could that opens the store beside the server. `slow:///NAME` is what the
file NAME in the folder of `SLOW_FOLDER` holds; each reading of it adds the number of its process to `NAME.loads`,
and waits while there is a file `NAME.hold`. Without that folder it is a text.
"""

from __future__ import annotations

import os
from pathlib import Path

import trio

from mcpd import resource, tool
from mcpd.storage.documents import Document, Put
from mcpd.storage.sqlite.documents import open_documents


@tool(task="optional")
async def later() -> str:
    """Be a task for whoever knows tasks."""
    return "done"


@tool
async def put(data: str, uri: str, text: str) -> str:
    """Store a document in the data folder `data`."""
    document = Document(uri=uri, title=uri, mime_type="text/plain", text=text, digest=text)
    async with open_documents(Path(data)) as documents:
        return (await documents.write([Put(document=document)]))[0].status


async def _read(name: str) -> str:
    folder = os.environ.get("SLOW_FOLDER")
    if folder is None:
        return name
    path = Path(folder) / name
    with path.with_suffix(".loads").open("a") as loads:
        loads.write(f"{os.getpid()}\n")
    text = path.read_text()
    while path.with_suffix(".hold").exists():  # noqa: ASYNC110 - a file rings no bell
        await trio.sleep(0.01)
    return text


@resource("slow:///{name}", ttl_ms=60_000, cache_scope="public")
async def slow(name: str) -> str:
    """Return what a file holds, to everybody."""
    return await _read(name)


@resource("own:///{name}", ttl_ms=60_000)
async def own(name: str) -> str:
    """Return what a file holds, to each caller by itself."""
    return await _read(name)
