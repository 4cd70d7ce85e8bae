"""A folder to ingest and a real store, for the tests of ingestion."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mcpd.storage.sqlite.documents import SqliteDocuments, open_documents


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """Return an empty folder called `notes`."""
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


@pytest.fixture
async def documents(tmp_path: Path) -> AsyncIterator[SqliteDocuments]:
    """Return an empty store that looks for changes often."""
    async with open_documents(tmp_path / "data", poll_s=0.02) as opened:
        yield opened
