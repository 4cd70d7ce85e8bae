"""A tool of test replicas that stores a document, as any author's could that opens the store beside the server."""

from __future__ import annotations

from pathlib import Path

from mcpd import tool
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
