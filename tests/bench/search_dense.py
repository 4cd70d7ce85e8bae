"""Recall of the coded vectors of a real model: ten thousand sentences about code, embedded by `embedding_server`.

A model on two cores embeds a hundred short texts a second, so the corpus is the first line of every docstring of the
sources, with its function's name: short texts, and as many of them as the time allows. Each is a document of its own.

Called by: `search`. The store is filled through `Documents.write`, and kept where it is complete.
"""

from __future__ import annotations

import ast
import hashlib
import random
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import trio

from mcpd.config import Embeddings
from mcpd.search.embeddings import EmbeddingProvider
from mcpd.search.providers import open_provider
from mcpd.storage.documents import Document, Documents, Put, Span
from mcpd.storage.sqlite.documents import FILE_NAME, open_documents
from tests.bench import search_corpus, search_recall
from tests.bench.embedding_server import embedding_server

BATCH = 256
REPLY_S = 120.0
LEAST_CHARS = 30

_OWNERS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Recall(NamedTuple):
    """Recall@10 over `texts` vectors of `dims` dimensions."""

    recall: float
    texts: int
    dims: int


def sentences(paths: Iterable[Path]) -> Iterator[str]:
    """Yield the first line of each docstring, behind the name of what it describes."""
    for path in paths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError):
                continue
        for node in ast.walk(tree):
            if isinstance(node, _OWNERS) and (said := ast.get_docstring(node)):
                line = f"{node.name}: {said.partition(chr(10))[0]}"
                if len(line) >= LEAST_CHARS:
                    yield line


def corpus(wanted: int) -> list[str]:
    """Return different sentences, the same ones every time."""
    found: dict[str, None] = {}
    for sentence in sentences(entry.path for entry in search_corpus.shuffled()):
        found[sentence] = None
        if len(found) == wanted:
            break
    return list(found)


async def _fill(documents: Documents, provider: EmbeddingProvider, texts: list[str]) -> None:
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        known = await documents.versions([_uri(text) for text in batch])
        new = [text for text in batch if _uri(text) not in known]
        vectors = await provider.embed(new)
        await documents.write(
            [_put(text, tuple(vector), provider.model) for text, vector in zip(new, vectors, strict=True)]
        )


def _uri(text: str) -> str:
    return f"docs:///sentences/{hashlib.sha256(text.encode()).hexdigest()[:24]}"


def _put(text: str, vector: tuple[float, ...], model: str) -> Put:
    document = Document(uri=_uri(text), title=text[:60], mime_type="text/plain", text=text, digest=_uri(text))
    return Put(document=document, spans=(Span(0, len(text)),), vectors=(vector,), model=model)


async def _measure(settings: Embeddings, folder: Path, texts: list[str], queries: int) -> Recall:
    async with open_documents(folder) as documents, open_provider(settings) as provider:
        await _fill(documents, provider, texts)
        asked = search_corpus.queries(folder / FILE_NAME, queries)
        recall = await search_recall.recall(documents, provider, folder / FILE_NAME, asked)
        return Recall(recall, (await documents.statistics()).vectors, provider.dims or 0)


def measure(folder: Path, *, texts: int, queries: int) -> Recall:
    """Start the model and measure. Raises: install.Missing when it cannot be had."""
    chosen = corpus(texts)
    random.Random(search_corpus.SEED).shuffle(chosen)
    with embedding_server() as at:
        settings = Embeddings(url=at.url, model=at.model, dims=at.dims, reply_s=REPLY_S)
        return trio.run(_measure, settings, folder, chosen, queries)
