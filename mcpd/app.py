"""The composition root: the only file that knows all parts, in the order in which they start and stop.

    run
    └─ services   worker pool, disconnect watches, session reaper, prompt watcher          closes last
       └─ serving Hypercorn, or stdio
    stop: refuse new calls and say so on /readyz -> end listen streams -> let calls finish for `timeouts.grace_s`
          -> cancel the rest (`drain`) -> close the listener -> stop services -> exit 0

A second signal ends the process at once; so does a watchdog when a peer that has stopped reading would hold it.

Called by: `cli`. Deliberately not: a place for behaviour.

Sources: architecture sections 3 and 4.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

import trio

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
from mcpd.config import Config
from mcpd.errors import ConfigurationError
from mcpd.events import Changed, LocalBus
from mcpd.gateway.access import Access, startup_check
from mcpd.gateway.app import make_app, make_metrics_app
from mcpd.gateway.hypercorn import Connections, hypercorn_config, listening_ports, open_sockets, serve_http
from mcpd.gateway.keys import KeyStore
from mcpd.gateway.stdio import StdioDoor, claim_stdout
from mcpd.messages.listens import Listens
from mcpd.messages.manager import MessageManager
from mcpd.messages.sessions import Sessions
from mcpd.monitoring import logs as logging_setup
from mcpd.monitoring.health import Finding, Health
from mcpd.monitoring.logs import Logs
from mcpd.monitoring.metrics import Metrics
from mcpd.prompts.loader import FilePrompt, PromptLoader
from mcpd.prompts.manager import PromptManager
from mcpd.resources.manager import ResourceManager
from mcpd.service import Managers, McpService, Sealing
from mcpd.signals import heed_signals
from mcpd.tools.builtin.files import file_tools
from mcpd.tools.manager import ToolManager
from mcpd.tools.registry import ToolRegistry
from mcpd.tools.threads import ThreadPool
from mcpd.tools.workers import WorkerPool, WorkerSettings
from mcpd.wire.methods import TABLE
from mcpd.wire.sealed import KeyRing, new_ring_text, parse_ring
from mcpd.wire.versions import STATEFUL, STATELESS

_log = logging.getLogger("mcpd")
D = TypeVar("D")


@dataclass(frozen=True)
class House:
    """All parts of one running server."""

    config: Config
    manager: MessageManager
    sessions: Sessions
    prompts: PromptManager
    loader: PromptLoader | None
    bus: LocalBus
    workers: WorkerPool
    metrics: Metrics
    health: Health
    logs: Logs
    keys: KeyStore


def build(config: Config, logs: Logs) -> House:
    """Put the parts together. Raises: ConfigurationError, RegistrationError."""
    declarations = load_declarations(config)
    ring = load_ring(config.data.folder)
    metrics = Metrics(version=mcpd.__version__, methods=TABLE, versions=(STATELESS, *STATEFUL))
    metrics.log_lines_dropped.follow(lambda: logs.dropped)
    bus, health = LocalBus(), Health()
    limits, timeouts = config.limits, config.timeouts
    threads = ThreadPool(limits.max_threads, limits.max_abandoned_threads, cleanup_s=timeouts.cleanup_s)
    workers = WorkerPool(_worker_settings(config, declarations))
    _watch_work(metrics, health, threads, workers)
    paging = Paging(ring, limits.page_size)
    registry = ToolRegistry()
    registry.replace(_of(ToolDeclaration, declarations))
    metrics.know_tools(tool.name for tool in registry.catalog)
    resources = ResourceManager(_of(ResourceDeclaration, declarations), paging)
    prompts = PromptManager(_of(PromptDeclaration, declarations), paging)
    tools = ToolManager(registry, paging=paging, threads=threads, workers=workers, metrics=metrics)
    completions = Completions(_of(CompletionDeclaration, declarations), prompts, resources)
    service = McpService(
        _server_info(config),
        config.server.instructions,
        managers=Managers(tools, resources, prompts, completions, threads),
        sealing=Sealing(ring, ttl_s=timeouts.request_state_s, max_rounds=limits.max_input_rounds),
        bus=bus,
    )
    listens = Listens(service, bus, limits=limits, metrics=metrics)
    sessions = Sessions(service, bus, limits=limits, timeouts=timeouts, metrics=metrics)
    manager = MessageManager(service, listens, sessions, limits=limits, timeouts=timeouts, metrics=metrics, logs=logs)
    loader = None if config.prompts.folder is None else PromptLoader([config.prompts.folder])
    keys = KeyStore(config.auth.keys_file or config.data.folder / "keys.toml", config.auth.api_key)
    return House(config, manager, sessions, prompts, loader, bus, workers, metrics, health, logs, keys)


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
            return Finding("degraded", f"stuck: {', '.join(sorted(set(threads.stuck())))}")
        return Finding("ok", f"{threads.abandoned} abandoned")

    health.add("threads", check_threads, required=False)


def load_declarations(config: Config) -> list[Declaration]:
    """Return the built-in tools and everything that `--tools` and the entry points name. Raises: RegistrationError."""
    declarations: list[Declaration] = list(_built_in(config))
    for spec in config.tools.modules:
        declarations += load(spec)
    for point in entry_points(group="mcpd.tools"):
        declarations += load(point.value)
    return declarations


def _built_in(config: Config) -> list[ToolDeclaration]:
    root = config.files.folder(working=Path.cwd(), home=Path.home())
    if root is None:
        _log.warning("no file tools: the working folder is / or your home; name one with --files DIR")
        return []
    excluded = [config.data.folder.absolute()]
    if config.auth.keys_file is not None:
        excluded.append(config.auth.keys_file.absolute())
    return file_tools(root, config.files, config.limits, excluded=tuple(excluded))


def load_ring(folder: Path) -> KeyRing:
    """Return the key ring that seals cursors and request states, made once in `<folder>/seal.key` (mode 0600).

    Raises: ConfigurationError when the folder cannot be written or the file is not a key ring.
    """
    path = folder / "seal.key"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _create_once(path, new_ring_text(secrets.token_bytes(64)))
        return parse_ring(path.read_text())
    except OSError as error:
        raise ConfigurationError(
            f"Cannot write the data folder {folder}: {error.strerror}; choose another with --data DIR"
        ) from error


def _create_once(path: Path, text: str) -> None:
    """Create `path` whole or not at all: several processes may start on one data folder at once."""
    if path.exists():
        return
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()


def serve(config: Config) -> int:
    """Run the HTTP server until a signal; returns the exit code. Raises: ConfigurationError, RegistrationError."""
    logs = logging_setup.configure(config.server.log_level)
    house = build(config, logs)
    startup_check(config, house.keys)
    sockets = open_sockets(config.server, config.timeouts)
    try:
        trio.run(_serve, house, sockets)
    finally:
        for sock in sockets:
            sock.close()
        logs.close()
    return 0


async def _serve(house: House, sockets: list[socket.socket]) -> None:
    stopping = trio.Event()
    async with trio.open_nursery() as signals:
        signals.start_soon(_heed_signals, house, stopping)
        async with trio.open_nursery() as running:
            await running.start(run_http, house, sockets, stopping)
            _announce(house.config, sockets)
        signals.cancel_scope.cancel()


async def run_http(
    house: House,
    sockets: list[socket.socket],
    stopping: trio.Event,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on `sockets` until `stopping` is set, then stop in order.

    Reports started when clients can connect. Cancellation: safe, but nobody is waited for. Resources: the caller closes
    the sockets.
    """
    config = house.config
    access = Access(config.server, house.keys, ports=listening_ports(sockets))
    closed = trio.Event()
    async with trio.open_nursery() as services:
        await _start_services(house, services)
        application = make_app(
            config, house.manager, house.sessions, access, watch=(house.metrics, house.health), nursery=services
        )
        connections = Connections(config.limits, config.timeouts, house.metrics)
        async with trio.open_nursery() as serving:
            await serving.start(_listen, application, hypercorn_config(config, sockets), connections, closed)
            if config.server.metrics_bind is not None:
                await _start_metrics_listener(house, serving, connections, closed)
            task_status.started()
            await stopping.wait()
            await _stop(house)
            closed.set()
        services.cancel_scope.cancel()


async def _listen(
    application: Any,
    config: Any,
    connections: Connections,
    closed: trio.Event,
    *,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    await serve_http(application, config, connections, stop=closed.wait, task_status=task_status)


async def _start_metrics_listener(
    house: House, serving: trio.Nursery, connections: Connections, closed: trio.Event
) -> None:
    config = house.config
    host, _, port = (config.server.metrics_bind or "").rpartition(":")
    plain = replace(config, server=replace(config.server, host=host, port=int(port), bind=None, tls_cert=None))
    sockets = open_sockets(plain.server, plain.timeouts)
    await serving.start(_listen, make_metrics_app(house.metrics), hypercorn_config(plain, sockets), connections, closed)
    for sock in sockets:
        sock.close()


async def _start_services(house: House, services: trio.Nursery) -> None:
    await services.start(house.workers.run)
    services.start_soon(house.sessions.expire)
    if house.loader is not None:

        def adopt(found: list[FilePrompt]) -> None:
            if house.prompts.adopt(found):
                house.bus.publish(Changed("prompts"))

        await services.start(house.loader.run, adopt)


async def _stop(house: House) -> None:
    house.health.draining = True
    await house.manager.drain()
    house.sessions.close_all("drain")


async def _heed_signals(house: House, stopping: trio.Event) -> None:
    timeouts = house.config.timeouts
    patience_s = timeouts.grace_s + 3 * timeouts.cleanup_s + timeouts.write_s
    await heed_signals(stopping, lambda: _reload_keys(house.keys), patience_s=patience_s)


def _reload_keys(keys: KeyStore) -> None:
    try:
        keys.reload()
    except ConfigurationError as error:
        _log.error("keys not reloaded, the old ones stay: %s", error)


def _announce(config: Config, sockets: list[socket.socket]) -> None:
    server = config.server
    if server.bind is not None and server.bind.startswith("unix:"):
        lines = [f"mcpd {mcpd.__version__} on {server.bind}"]
    else:
        scheme = "https" if server.tls_cert else "http"
        host = f"[{server.host}]" if ":" in server.host else server.host
        base = f"{host}:{listening_ports(sockets)[0]}"
        lines = [
            f"mcpd {mcpd.__version__}",
            f"  MCP        {scheme}://{base}/mcp   ws{scheme[4:]}://{base}/ws",
            f"  operations {scheme}://{base}/healthz /readyz /metrics",
        ]
    lines.append(f"  data       {config.data.folder.absolute()} (embedded; sessions live in this process)")
    print("\n".join(lines), flush=True)  # noqa: T201 - what the operator sees first


def stdio(config: Config) -> int:
    """Serve one client on stdin and stdout until end of input or a signal; returns the exit code.

    Raises: ConfigurationError, RegistrationError.
    """
    private = claim_stdout()
    logs = logging_setup.configure(config.server.log_level)
    try:
        trio.run(_stdio, build(config, logs), private)
    finally:
        logs.close()
    return 0


async def _stdio(house: House, stdout_fd: int) -> None:
    stopping = trio.Event()
    async with trio.open_nursery() as signals:
        signals.start_soon(_heed_signals, house, stopping)
        await run_stdio(house, 0, stdout_fd, stopping)
        signals.cancel_scope.cancel()


async def run_stdio(house: House, stdin_fd: int, stdout_fd: int, stopping: trio.Event) -> None:
    """Serve one client on two descriptors until end of input, or until `stopping` is set; then stop in order.

    Cancellation: safe, but nobody is waited for. Resources: both descriptors are closed.
    """
    door = StdioDoor(house.manager, house.sessions, limits=house.config.limits)
    async with trio.open_nursery() as services:
        await _start_services(house, services)
        async with trio.open_nursery() as serving:
            serving.start_soon(_serve_stdio, door, stdin_fd, stdout_fd, serving.cancel_scope)
            await stopping.wait()
            await _stop(house)
            serving.cancel_scope.cancel()
        services.cancel_scope.cancel()


async def _serve_stdio(door: StdioDoor, stdin_fd: int, stdout_fd: int, serving: trio.CancelScope) -> None:
    await door.run(stdin_fd, stdout_fd)
    serving.cancel()
