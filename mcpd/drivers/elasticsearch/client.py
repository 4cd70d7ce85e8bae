"""The client: requests of many tasks to the nodes of one cluster.

    async with open_elasticsearch(["http://localhost:9200"], Options()) as client:
        answer = await client.perform(api.get_document("docs", "7"), opaque_id="request-1")

There is no `timeout=`: the caller's cancel scope ends an exchange by closing its connection, which ends a search on the
server as well, and its deadline is sent along, so that the server gives up in time by itself. `patience_s` bounds how
long a request is tried again.

Which requests are tried again
    no connection; 429; 503 before it has begun     all: it was not done
    cut; 502, 503, 504                              what is `repeatable`
    anything else                                   nothing

After a write whose outcome is unknown has been sent again, a refusal says nothing: it may be the first one that the
second met. Its caller gets OutcomeUnknown.

Called by: adapters in `storage`. Knows nothing of MCP. Deliberately not: what is asked (`elasticsearch_api`).
"""

from __future__ import annotations

import logging
import random
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from math import inf
from typing import Final, NamedTuple

import trio

from mcpd.drivers import elasticsearch_api as api
from mcpd.drivers.elasticsearch import sniffing
from mcpd.drivers.elasticsearch.answers import WHO, Product, Warnings, is_elasticsearch, is_opensearch, is_taken_as_fact
from mcpd.drivers.elasticsearch.bulk import Bulk
from mcpd.drivers.elasticsearch.nodes import Node, Nodes
from mcpd.drivers.elasticsearch.options import Options
from mcpd.drivers.elasticsearch.tls import context_of
from mcpd.drivers.elasticsearch.transport import Headers, Transport, parse, userinfo
from mcpd.drivers.elasticsearch.wire import compressed, printable, target_and_body
from mcpd.drivers.elasticsearch_api import Answer, Refresh, Request
from mcpd.drivers.elasticsearch_bulk import Action
from mcpd.drivers.elasticsearch_bulk import Outcome as ItemOutcome
from mcpd.drivers.elasticsearch_errors import (
    PASSING,
    ElasticsearchError,
    Garbled,
    NotExecuted,
    OutcomeUnknown,
    OutOfTime,
    Refused,
    Unreachable,
    classify,
    passes,
    twice,
)
from mcpd.drivers.timing import Observe, Outcome, Timed

_log: Final = logging.getLogger(__name__)

SHORTEST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0
SUCCESS: Final = range(200, 300)
SNIFF_PAUSE_S: Final = 10.0
"""The cluster is asked for its nodes before the first request, and after a failure, at most so often."""


class Statistics(NamedTuple):
    """A client at one moment."""

    nodes: int
    living: int
    in_flight: int
    waiting: int
    retries: int


class Elasticsearch:
    """A client of one cluster. Made and closed by `open_elasticsearch`; tasks may share it."""

    def __init__(
        self, nodes: Nodes[Transport], tls: ssl.SSLContext | None, options: Options, observe: Observe | None
    ) -> None:
        self._nodes = nodes
        self._tls = tls
        self._options = options
        self._observe = observe
        self._places = trio.CapacityLimiter(options.max_exchanges)
        self._changed = trio.Event()
        self._down_since: float | None = None
        self._retries = 0
        self._warnings = Warnings()
        self._sniff_at = -inf if options.sniff else inf
        self.product: Product = ""
        """What answers there, empty before the first answer."""

    async def perform(self, request: Request, *, opaque_id: str = "") -> Answer:
        """Send a request and return its answer, of status 2xx. `opaque_id` names the caller in the cluster's logs.

        Cancellation: closes the connection; a write may have been done.
        Raises: NotExecuted, OutcomeUnknown (of writes alone), Refused, Garbled.
        """
        if self._observe is None:
            async with self._places:
                return await self._perform(request, opaque_id)
        with Timed(self._observe, request.name, _outcome):
            async with self._places:
                return await self._perform(request, opaque_id)

    async def bulk(
        self, actions: Iterable[Action] | AsyncIterable[Action], *, refresh: Refresh = "", opaque_id: str = ""
    ) -> list[ItemOutcome]:
        """Write many documents and return what became of each, in the order given.

        Actions are drawn from their source as fast as they can be sent. See `bulk` for what is sent again.
        Cancellation: closes the connections; what has been sent may have been done.
        """
        return await Bulk(partial(self.perform, opaque_id=opaque_id), self._options, refresh).run(actions)

    async def _perform(self, request: Request, opaque_id: str) -> Answer:
        if self._sniff_at <= trio.current_time():
            await self._sniff()
        deadline = trio.current_time() + self._options.patience_s
        pause, doubtful = SHORTEST_PAUSE_S, False
        while True:
            try:
                node = await self._choose(deadline)
            except Unreachable as error:
                raise _meaning(error, request, doubtful=doubtful) from None
            try:
                return await self._attempt(node, request, opaque_id)
            except ElasticsearchError as error:
                failure = _meaning(error, request, doubtful=doubtful)
                if not _again(error, request) or trio.current_time() + pause >= deadline:
                    raise failure from None
                doubtful = isinstance(failure, OutcomeUnknown)
                self._retries += 1
            if not (isinstance(failure, Unreachable) and self._nodes.living):
                await trio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - only to fall out of step
                pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _choose(self, deadline: float) -> Node[Transport]:
        """Return a node that lives, or one to try. Raises: Unreachable when there is none until `deadline`."""
        while (node := self._nodes.choose(now := trio.current_time())) is None:
            down_for = 0.0 if self._down_since is None else now - self._down_since
            due_at = self._nodes.due_at()
            if down_for >= self._options.patience_s or due_at >= deadline:
                raise Unreachable(self.failure)
            with trio.move_on_at(due_at):
                await self._changed.wait()
        return node

    async def _attempt(self, node: Node[Transport], request: Request, opaque_id: str) -> Answer:
        target, body = target_and_body(request, trio.current_effective_deadline() - trio.current_time())
        headers: Headers = [(b"content-type", request.content_type.encode())] if body else []
        if self._options.compress_bytes is not None and len(body) >= self._options.compress_bytes:
            body = await compressed(body)
            headers.append((b"content-encoding", b"gzip"))
        if opaque_id:
            headers.append((b"x-opaque-id", printable(opaque_id)))
        try:
            answer = await node.transport.exchange(request.method, target, headers, body)
        except (Unreachable, OutcomeUnknown) as error:
            self._failed(node, str(error))
            raise
        return await self._judge(node, answer)

    async def _judge(self, node: Node[Transport], answer: Answer) -> Answer:
        """Return the answer if it is one of success."""
        if "warning" in answer.headers:
            self._warnings.note(answer)
        if is_elasticsearch(answer):
            self.product = "elasticsearch"
        elif self.product != "opensearch" and is_taken_as_fact(answer):
            await self._identify(node)
        if answer.status in SUCCESS:
            self._answered(node)
            return answer
        error = classify(answer.status, answer.body)
        if answer.status in PASSING and not error.kind:
            self._failed(node, str(error))
        else:
            self._answered(node)
        raise error

    async def _identify(self, node: Node[Transport]) -> None:
        """Ask a node that does not name its product. Raises: Garbled when it is none that this client knows."""
        try:
            root = await node.transport.exchange(WHO.method, WHO.path, [], b"")
        except (Unreachable, OutcomeUnknown) as error:
            raise Garbled(f"{node.address} does not say what it is: {error}") from None
        if not is_opensearch(root):
            raise Garbled(
                f"{node.address} is neither Elasticsearch 7.14 or newer nor OpenSearch, or something answers for it"
            )
        self.product = "opensearch"

    async def _sniff(self) -> None:
        """Use the nodes that the cluster has; if it does not say, those that are known."""
        self._sniff_at = inf
        try:
            known = {node.address: node for node in self._nodes.all}
            scheme = next(iter(known)).partition(":")[0]
            found = sniffing.urls(await self._perform(api.nodes_info(), ""), scheme)
        except ElasticsearchError as error:
            _log.warning("Elasticsearch does not say which nodes it has: %s", error)
            return
        nodes = [_node(url, self._tls, self._options) for url in found]
        if nodes:
            self._nodes.replace([known.pop(node.address, node) for node in nodes])
            for gone in known.values():
                await gone.transport.retire()

    def _failed(self, node: Node[Transport], reason: str) -> None:
        self._nodes.failed(node, trio.current_time(), reason)
        if self._options.sniff:
            self._sniff_at = min(self._sniff_at, trio.current_time() + SNIFF_PAUSE_S)
        if not self._nodes.living and self._down_since is None:
            self._down_since = trio.current_time()

    def _answered(self, node: Node[Transport]) -> None:
        if not node.lives:
            self._nodes.answered(node)
            self._changed.set()
            self._changed = trio.Event()
        self._down_since = None

    @property
    def failure(self) -> str:
        """Why no node takes requests, without a credential; empty while one does."""
        if self._nodes.living:
            return ""
        return "no node answers: " + "; ".join(f"{node.address}: {node.reason}" for node in self._nodes.all)

    def statistics(self) -> Statistics:
        """Return how the client stands."""
        places = self._places.statistics()
        return Statistics(
            nodes=len(self._nodes.all),
            living=self._nodes.living,
            in_flight=int(places.borrowed_tokens),
            waiting=places.tasks_waiting,
            retries=self._retries,
        )


def _again(error: ElasticsearchError, request: Request) -> bool:
    if isinstance(error, NotExecuted):
        return not isinstance(error, OutOfTime)
    return request.repeatable and isinstance(error, OutcomeUnknown) and passes(error)


def _meaning(error: ElasticsearchError, request: Request, *, doubtful: bool) -> ElasticsearchError:
    """Return what an attempt's error means for its caller. `doubtful`: an earlier attempt may have been done."""
    if doubtful and not isinstance(error, OutcomeUnknown):
        return twice(error)
    if isinstance(error, OutcomeUnknown) and not request.writes:
        kind = Unreachable if passes(error) else Refused
        return kind(str(error), status=error.status, kind=error.kind)
    return error


def _outcome(error: BaseException) -> Outcome:
    if isinstance(error, NotExecuted):
        return "unavailable"
    return "unknown" if isinstance(error, OutcomeUnknown | Garbled) else "refused"


@asynccontextmanager
async def open_elasticsearch(
    urls: Sequence[str], options: Options | None = None, observe: Observe | None = None
) -> AsyncIterator[Elasticsearch]:
    """Give a client of the cluster that has these nodes; none is asked before the first request.

    Raises: Refused when URLs or options cannot be used.
    Resources: all its connections are closed on leaving, also when cancelled.
    """
    chosen = _with_credentials(options or Options(), urls)
    tls = context_of(chosen) if any(url.startswith("https:") for url in urls) else None
    nodes = Nodes([_node(url, tls, chosen) for url in urls])
    if not nodes.all:
        raise Refused("There is no URL of an Elasticsearch node")
    try:
        yield Elasticsearch(nodes, tls, chosen, observe)
    finally:
        with trio.CancelScope(shield=True):
            for node in nodes.all:
                await node.transport.aclose()


def _with_credentials(options: Options, urls: Sequence[str]) -> Options:
    """Return the options, with the first user and password that a URL holds where they name nobody."""
    for username, password in filter(None, map(userinfo, urls)):
        if not options.authorization():
            options = replace(options, username=username, password=password)
    return options


def _node(url: str, tls: ssl.SSLContext | None, options: Options) -> Node[Transport]:
    address = parse(url)
    return Node(str(address), Transport(address, tls, options))
