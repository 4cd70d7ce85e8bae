"""A process that writes documents and says what was acknowledged; made to be killed. Argument: the data folder.

Each line on its input is a round: `loop N` forks a child that writes batch after batch, until somebody kills it; `once
N` a child that writes one batch and ends. What a child says, a line each: its process id, then before each write
`open [[uri, revision or null], ...]` and after it `done [status, ...]`. The parent says `over` when the child has gone.
Forking saves each round the second that the imports take; the parent runs no threads and no event loop.

A document's every part follows from its URI and revision: `whole` says what it has to be.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

import trio

from mcpd.storage.documents import Document, Put, Remove, Span
from mcpd.storage.sqlite.documents import open_documents

BATCH = 24
CHUNKS = 6
DIMS = 16
Plan = list[tuple[str, int | None]]
"""(URI, revision to write, or None to remove)."""


def whole(uri: str, revision: int) -> Put:
    """The one document that this revision is."""
    draw = random.Random(f"{uri} {revision}")
    pieces = [" ".join(f"w{draw.randrange(500)}" for _ in range(80)) + f" r{revision}" for _ in range(CHUNKS)]
    spans, at = [], 0
    for piece in pieces:
        spans.append(Span(at, at + len(piece), f"heading {revision}"))
        at += len(piece) + 1
    vectors = tuple(tuple(draw.gauss(0, 0.25) for _ in range(DIMS)) for _ in spans)
    document = Document(
        uri=uri,
        title=f"title {uri} {revision}",
        mime_type="text/plain",
        text="\n".join(pieces),
        tags=(f"revision{revision}", "tag"),
        metadata={"revision": revision, "draw": draw.random()},
        digest=f"{uri} {revision}",
        size=at,
    )
    return Put(document=document, spans=tuple(spans), vectors=vectors, model="m")


def plan(batch: str, before: Plan) -> Plan:
    """New documents; a third of the batch before is written again, a sixth of it removed."""
    again: Plan = [(uri, revision + 1) for uri, revision in before[: BATCH // 3] if revision is not None]
    gone: Plan = [(uri, None) for uri, _ in before[BATCH // 3 : BATCH // 2]]
    return [(f"{batch}/{n}", 1) for n in range(BATCH)] + again + gone


def say(line: str) -> None:
    """One write to the pipe, so that a line is there whole or not at all."""
    os.write(1, f"{line}\n".encode())


async def write(folder: Path, number: str, *, forever: bool) -> None:
    before: Plan = []
    batch = 0
    async with open_documents(folder) as documents:
        while forever or batch == 0:
            planned = plan(f"{number}-{batch}", before)
            changes = [Remove(uri=uri) if revision is None else whole(uri, revision) for uri, revision in planned]
            say(f"open {json.dumps(planned)}")
            outcomes = await documents.write(changes)
            say(f"done {json.dumps([outcome.status for outcome in outcomes])}")
            before, batch = planned[:BATCH], batch + 1


def main() -> None:
    folder = Path(sys.argv[1])
    for line in sys.stdin:
        kind, number = line.split()
        child = os.fork()
        if child == 0:
            say(str(os.getpid()))
            trio.run(lambda: write(folder, number, forever=kind == "loop"))  # noqa: B023 - runs at once
            os._exit(0)
        os.waitpid(child, 0)
        say("over")


if __name__ == "__main__":
    main()
