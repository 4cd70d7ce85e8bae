"""Replicas for tests: `mcpd serve` processes that share one Redis and one data folder, and clients that listen to them.

`replicas` starts them; `Ear` is one client's stream of notices, a listen stream or the GET of a session, and remembers
what it has heard. Deliberately not: assertions.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import trio

from mcpd.sealing import new_key
from tests.in_process import eventually
from tests.served import Mcp, ReplyReader, Server, client_of, serving, stateless

TOOLS = Path(__file__).parent / "tools.py"
SEALS = f'[auth]\nseal_keys = "{new_key().strip()}"\n'
"""Settings of replicas with data folders of their own."""


class Replica:
    """One server of several. `folder` has its log, `data` is shared."""

    def __init__(self, server: Server, folder: Path, data: Path) -> None:
        self.server = server
        self.folder = folder
        self.data = data

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def logged(self, pattern: str) -> int:
        return len(re.findall(pattern, self.log()))

    async def ready(self) -> str:
        """Return what `/readyz` says."""
        async with client_of(self.server) as client:
            return str((await client.http.get("/readyz")).text)

    async def wait_ready(self, pattern: str) -> None:
        """Wait until `/readyz` says so."""
        said = ""
        for _ in range(1_000):
            said = await self.ready()
            if re.search(pattern, said):
                return
            await trio.sleep(0.01)
        raise AssertionError(said)

    async def change(self, uri: str) -> None:
        """Let a tool announce that `uri` has changed."""
        async with client_of(self.server) as client:
            reply = await client.ask("tools/call", {"name": "change", "arguments": {"kind": "resource", "uri": uri}})
            assert reply.status == 200, reply.text

    async def put(self, uri: str, text: str) -> None:
        """Let a tool store a document."""
        arguments = {"data": str(self.data), "uri": uri, "text": text}
        async with client_of(self.server) as client:
            reply = await client.ask("tools/call", {"name": "put", "arguments": arguments})
            assert reply.result["content"][0]["text"] in ("created", "updated"), reply.text


@contextmanager
def replicas(
    folder: Path,
    settings: str,
    count: int = 2,
    *flags: str,
    start: Callable[..., AbstractContextManager[Server]] = serving,
) -> Iterator[list[Replica]]:
    """Start replicas one after the other, each in a folder of its own, over one data folder.

    With `start=killable` they may be killed.
    """
    data = folder / "shared"
    with ExitStack() as running:
        found = []
        for number in range(count):
            place = folder / str(number)
            place.mkdir(parents=True)
            words = ("--data", str(data), "--tools", str(TOOLS), *flags)
            server = running.enter_context(start(place, settings, *words))
            found.append(Replica(server, place, data))
        yield found


class Ear:
    """What one client has been told: the URIs of updates, and the kinds of lists, in order."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def listen(self, reader: ReplyReader) -> None:
        while (message := await reader.message()) is not None:
            method = message.get("method", "")
            if method == "notifications/resources/updated":
                self.heard.append(message["params"]["uri"])
            elif method.endswith("list_changed"):
                self.heard.append(method.split("/")[1])

    async def wait(self, word: str) -> None:
        """Wait until it has been told."""
        await eventually(lambda: word in self.heard, f"{word} is heard")


@asynccontextmanager
async def listening(replica: Replica, *uris: str) -> AsyncIterator[Ear]:
    """Listen as a stateless client does."""
    wanted: dict[str, Any] = {"promptsListChanged": True, "resourceSubscriptions": list(uris)}
    body, headers = stateless("subscriptions/listen", {"notifications": wanted})
    async with client_of(replica.server) as client, client.streaming("POST", body, headers) as reader:
        assert (await reader.message())["method"] == "notifications/subscriptions/acknowledged"
        async with attending(reader) as ear:
            yield ear


@asynccontextmanager
async def subscribed(replica: Replica, *uris: str) -> AsyncIterator[Ear]:
    """Subscribe as a session does, and read its GET."""
    async with client_of(replica.server) as client:
        await client.initialize()
        for uri in uris:
            assert (await client.call("resources/subscribe", {"uri": uri})).code is None
        async with _get(client) as reader, attending(reader) as ear:
            yield ear


def _get(client: Mcp) -> Any:
    return client.streaming("GET", None, {**client.session, "accept": "text/event-stream"})


@asynccontextmanager
async def attending(reader: ReplyReader) -> AsyncIterator[Ear]:
    """Listen to a stream of notices that is open."""
    ear = Ear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ear.listen, reader)
        yield ear
        nursery.cancel_scope.cancel()
