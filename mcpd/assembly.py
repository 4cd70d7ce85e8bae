"""The composition root's first half: which parts there are, and how they are put together.

`build` makes every part of one server from its configuration and its opened stores, and hands each what it needs
(law 9: constructor injection, one root). What runs, in which order, and how it stops is `app`.

Called by: `app`, and tests that want the parts without the transports. Deliberately not: a place for behaviour.

Sources: architecture sections 1, 2 and 4.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

import mcpd
from mcpd.authoring.declarations import (
    CompletionDeclaration,
    Declaration,
    PromptDeclaration,
    ResourceDeclaration,
    ToolDeclaration,
    load,
)
from mcpd.catalog import Paging
from mcpd.completions import Completions
from mcpd.config import Config, Limits
from mcpd.events import Bus
from mcpd.gateway.keys import KeyStore
from mcpd.idempotency import KeyedCalls
from mcpd.messages.listens import Listens
from mcpd.messages.manager import MessageManager
from mcpd.messages.rates import Rates
from mcpd.messages.recorder import Recorder
from mcpd.messages.sessions import Sessions
from mcpd.monitoring.health import Finding, Health
from mcpd.monitoring.logs import Logs
from mcpd.monitoring.metrics import Metrics
from mcpd.prompts.loader import PromptLoader
from mcpd.prompts.manager import PromptManager
from mcpd.rates import read_rate
from mcpd.resources.cache import ResourceCache
from mcpd.resources.documents import DocumentResources, path_completion
from mcpd.resources.manager import ResourceManager
from mcpd.sealing import load_ring
from mcpd.search.embeddings import EmbeddingProvider
from mcpd.search.providers import open_provider
from mcpd.search.query import parse
from mcpd.search.searcher import Searcher
from mcpd.service import Managers, McpService, Offer
from mcpd.storage.documents import Documents, Json, StorageError
from mcpd.storage.inbox import Inbox
from mcpd.storage.open import (
    alone,
    open_documents,
    open_idempotency,
    open_inbox,
    open_sessions,
    open_shared,
    open_tasks,
    own_inbox,
    passing_sessions,
    recording,
)
from mcpd.storage.records import Records
from mcpd.storage.replicas import Shared
from mcpd.storage.shared import Idempotency, SessionStore, TaskStore
from mcpd.tasks import Tasks
from mcpd.tools.builtin.documents import document_tools
from mcpd.tools.builtin.files import file_tools
from mcpd.tools.builtin.protected import own_places
from mcpd.tools.manager import ToolManager
from mcpd.tools.registry import ToolRegistry
from mcpd.tools.threads import ThreadPool
from mcpd.tools.workers import WorkerPool, WorkerSettings
from mcpd.turns import Sealing
from mcpd.wire.call import Principal
from mcpd.wire.methods import TABLE
from mcpd.wire.sealed import KeyRing
from mcpd.wire.uris import normalise
from mcpd.wire.versions import STATEFUL, STATELESS

_log = logging.getLogger("mcpd")
D = TypeVar("D")
Policies = tuple[Rates | None, KeyedCalls | None, Recorder | None]
"""What bounds how often callers call, what lets calls be sent again, and what records them."""


@dataclass(frozen=True)
class Parts:
    """All parts of one running server."""

    config: Config
    manager: MessageManager
    sessions: Sessions
    prompts: PromptManager
    loader: PromptLoader | None
    shared: Shared
    workers: WorkerPool
    metrics: Metrics
    health: Health
    logs: Logs
    keys: KeyStore
    documents: Documents | None
    tools: ToolRegistry
    ring: KeyRing

    @property
    def keyed(self) -> KeyedCalls | None:
        """Runs calls with an idempotency key; None without stores."""
        return self.manager.keyed

    @property
    def inbox(self) -> Inbox:
        """Carries what processes tell each other."""
        return self.sessions.inbox

    @property
    def bus(self) -> Bus:
        """Carries change events, to replicas too."""
        return self.shared.bus


@dataclass(frozen=True)
class Stores:
    """What keeps data, opened."""

    documents: Documents
    provider: EmbeddingProvider
    tasks: TaskStore
    idempotency: Idempotency
    sessions: SessionStore
    inbox: Inbox
    shared: Shared
    metrics: Metrics
    """Counts what the others are asked, from their opening on."""
    records: Records | None = None


@asynccontextmanager
async def open_stores(config: Config) -> AsyncIterator[Stores]:
    """Open the stores that the configuration names. Raises: ConfigurationError, StorageError."""
    metrics = _metrics()
    shared = await open_shared(config, metrics, normal=normalise)
    async with (
        open_documents(config, metrics) as documents,
        open_tasks(config, shared, metrics) as tasks,
        open_idempotency(config, shared, metrics) as idempotency,
        open_sessions(config, shared, metrics) as sessions,
        open_inbox(config, shared, metrics) as inbox,
        recording(config, metrics) as records,
        open_provider(
            config.embeddings, observe=partial(metrics.cache_asked, "vectors"), second=shared.cache
        ) as provider,
    ):
        yield Stores(documents, provider, tasks, idempotency, sessions, inbox, shared, metrics, records)


def build(config: Config, logs: Logs, stores: Stores | None = None) -> Parts:
    """Put the parts together; without `stores` there are no documents, tasks and idempotency keys.

    Raises: ConfigurationError, RegistrationError.
    """
    documents, ring = None if stores is None else stores.documents, load_ring(config.data.folder, config.auth.seal_keys)
    metrics = _metrics() if stores is None else stores.metrics
    metrics.log_lines_dropped.follow(lambda: logs.dropped)
    shared = alone() if stores is None else stores.shared
    bus, health, limits, timeouts = shared.bus, Health(), config.limits, config.timeouts
    declarations = load_declarations(config)
    searcher = None
    if stores is not None:
        _watch_stores(health, stores)
        searcher = _searcher(stores, config, metrics)
        declarations = [*document_tools(limits), *declarations]
    threads = ThreadPool(limits.max_threads, limits.max_abandoned_threads, cleanup_s=timeouts.cleanup_s)
    workers = WorkerPool(_worker_settings(config, declarations))
    _watch_work(metrics, health, threads, workers)
    paging = Paging(ring, limits.page_size, round(config.server.listing_ttl_s * 1000))
    known = _registry(config, declarations, metrics)
    resources = _resources(declarations, paging, _resource_cache(limits, metrics, shared), documents)
    prompts = PromptManager(_of(PromptDeclaration, declarations), paging)
    masked = config.tools.errors == "masked"
    tools = ToolManager(known, paging=paging, threads=threads, workers=workers, metrics=metrics, mask_errors=masked)
    completions = Completions(_completing(declarations, documents), prompts, resources)
    tasks = None if stores is None else Tasks(stores.tasks, limits=limits, timeouts=timeouts, metrics=metrics)
    service = McpService(
        _server_info(config),
        Offer(config.server.instructions, paging.ttl_ms, config.server.change_notices),
        managers=Managers(tools, resources, prompts, completions, threads, _search_of(searcher, limits), tasks),
        sealing=Sealing(ring, ttl_s=timeouts.request_state_s),
        bus=bus,
    )
    policies = _rates(config, shared, service, metrics, known), _keyed(stores, config), _recorder(stores, config)
    between = _between_processes(stores)
    manager, sessions = _messages(service, bus, between, config, metrics=metrics, logs=logs, policies=policies)
    if manager.recorder is not None:
        health.add("records", manager.recorder.check, required=False)
    loader = None if config.prompts.folder is None else PromptLoader([config.prompts.folder])
    keys = KeyStore(config.keys_file, config.auth.api_key)
    return Parts(
        config, manager, sessions, prompts, loader, shared, workers, metrics, health, logs, keys, documents, known, ring
    )


def _between_processes(stores: Stores | None) -> tuple[SessionStore, Inbox]:
    return (passing_sessions(), own_inbox()) if stores is None else (stores.sessions, stores.inbox)


def _metrics() -> Metrics:
    return Metrics(version=mcpd.__version__, methods=TABLE, versions=(STATELESS, *STATEFUL))


def _messages(
    service: McpService,
    bus: Bus,
    between: tuple[SessionStore, Inbox],
    config: Config,
    *,
    metrics: Metrics,
    logs: Logs,
    policies: Policies,
) -> tuple[MessageManager, Sessions]:
    limits, timeouts, (rates, keyed, recorder) = config.limits, config.timeouts, policies
    listens = Listens(service, bus, limits=limits, metrics=metrics)
    sessions = Sessions(service, bus, *between, limits=limits, timeouts=timeouts, metrics=metrics)
    manager = MessageManager(
        service,
        listens,
        sessions,
        limits=limits,
        timeouts=timeouts,
        metrics=metrics,
        logs=logs,
        rates=rates,
        keyed=keyed,
        recorder=recorder,
    )
    return manager, sessions


def _keyed(stores: Stores | None, config: Config) -> KeyedCalls | None:
    if stores is None:
        return None
    return KeyedCalls(stores.idempotency, limits=config.limits, timeouts=config.timeouts, metrics=stores.metrics)


def _recorder(stores: Stores | None, config: Config) -> Recorder | None:
    if stores is None or stores.records is None:
        return None
    return Recorder(stores.records, config.records, stores.metrics, cleanup_s=config.timeouts.cleanup_s)


def _rates(
    config: Config, shared: Shared, service: McpService, metrics: Metrics, registry: ToolRegistry
) -> Rates | None:
    """Return what bounds how often callers call; None, and no cost to anybody, where there are no rates."""
    limits, among = config.limits, config.server.workers if config.redis.url is None else 1
    caller, tool = (None if written is None else read_rate(written) for written in (limits.rate, limits.tool_rate))
    if caller is None and tool is None and not any(one.rate for one in registry.catalog):
        return None
    return Rates(shared.rates, service, metrics, caller=caller, tool=tool, among=among)


def _completing(declarations: Iterable[Declaration], documents: Documents | None) -> list[CompletionDeclaration]:
    found = _of(CompletionDeclaration, declarations)
    return found if documents is None else [*found, path_completion(documents)]


def _registry(config: Config, declarations: Iterable[Declaration], metrics: Metrics) -> ToolRegistry:
    registry = ToolRegistry(task_after_s=config.timeouts.task_after_s)
    registry.replace(_of(ToolDeclaration, declarations))
    metrics.know_tools(tool.name for tool in registry.catalog)
    return registry


def _resources(
    declarations: Iterable[Declaration], paging: Paging, cache: ResourceCache, documents: Documents | None
) -> ResourceManager:
    stored = None if documents is None else DocumentResources(documents)
    return ResourceManager(_of(ResourceDeclaration, declarations), paging, cache=cache, documents=stored)


def _resource_cache(limits: Limits, metrics: Metrics, shared: Shared) -> ResourceCache:
    cache = ResourceCache(
        max_bytes=limits.max_cache_bytes,
        observe=partial(metrics.cache_asked, "resources"),
        second=shared.cache,
    )
    shared.bus.subscribe(lambda event: cache.forget(event.uri) if event.kind == "resource" else None)
    return cache


def _searcher(stores: Stores, config: Config, metrics: Metrics) -> Searcher:
    patience_s = config.embeddings.patience_s
    return Searcher(stores.documents, stores.provider, patience_s=patience_s, observe=metrics.search_finished)


def _search_of(searcher: Searcher | None, limits: Limits) -> Callable[[Json, Principal], Awaitable[Json]] | None:
    if searcher is None:
        return None

    async def search(body: Json, principal: Principal) -> Json:
        return await searcher.search(parse(body, limits=limits), owner=principal.share)

    return search


def _of(kind: type[D], declarations: Iterable[Any]) -> list[D]:
    return [declaration for declaration in declarations if isinstance(declaration, kind)]


def _server_info(config: Config) -> dict[str, Any]:
    info = {"name": config.server.name, "version": mcpd.__version__}
    return info if config.server.title is None else {**info, "title": config.server.title}


def _worker_settings(config: Config, declarations: Iterable[Declaration]) -> WorkerSettings:
    sources = [tool.source for tool in _of(ToolDeclaration, declarations) if tool.isolation == "process"]
    limits = config.limits
    return WorkerSettings(
        warm=limits.worker_processes if sources else 0,
        max_workers=limits.max_worker_processes,
        max_queued=limits.max_queued_calls,
        max_message_bytes=limits.max_result_bytes,
        cleanup_s=config.timeouts.cleanup_s,
        preload=tuple(dict.fromkeys(sources)),
    )


def _watch_work(metrics: Metrics, health: Health, threads: ThreadPool, workers: WorkerPool) -> None:
    metrics.watch("abandoned_threads", lambda: threads.abandoned)
    metrics.watch("worker_processes", lambda: workers.statistics().idle, "idle")
    metrics.watch("worker_processes", lambda: workers.statistics().busy, "busy")
    metrics.watch("worker_processes", lambda: workers.statistics().starting, "starting")

    async def check_threads() -> Finding:
        if threads.degraded:
            names = threads.stuck()
            return Finding("degraded", f"{len(names)} stuck", f"stuck in {', '.join(sorted(set(names)))}")
        return Finding("ok", f"{threads.abandoned} abandoned")

    health.add("threads", check_threads, required=False)


def _watch_stores(health: Health, stores: Stores) -> None:
    _watch_store(health, stores.documents)
    if stores.tasks is not stores.shared.tasks:
        _watch_tasks(health, stores.tasks)
    _watch_shared(health, stores.shared)


def _watch_store(health: Health, documents: Documents) -> None:
    async def check_documents() -> Finding:
        try:
            await documents.ping()
        except StorageError as error:
            return Finding("down", "unavailable; the log says why", str(error))
        return Finding("ok")

    health.add("documents", check_documents, required=True)


def _watch_tasks(health: Health, tasks: TaskStore) -> None:
    async def check_tasks() -> Finding:
        try:
            counts = await tasks.count()
        except StorageError as error:
            return Finding("down", "unavailable; the log says why", str(error))
        return Finding("ok", f"{sum(counts.values())} kept")

    health.add("tasks", check_tasks, required=False)


def _watch_shared(health: Health, shared: Shared) -> None:
    async def check_shared() -> Finding:
        return Finding(*await shared.check())

    if shared.name:
        health.add(shared.name, check_shared, required=False)


def load_declarations(config: Config) -> list[Declaration]:
    """Return the built-in tools and everything that `--tools` and the entry points name. Raises: RegistrationError."""
    modules = [*config.tools.modules, *(point.value for point in entry_points(group="mcpd.tools"))]
    return [*_built_in(config, modules), *(found for module in modules for found in load(module))]


def _built_in(config: Config, modules: list[str]) -> list[ToolDeclaration]:
    root = config.files.folder(working=Path.cwd(), home=Path.home())
    if root is not None:
        return file_tools(root, config.files, config.limits, own_places(config, modules))
    if config.files.enabled:
        _log.warning("no file tools: the working folder is / or your home; name one with --files DIR")
    return []
