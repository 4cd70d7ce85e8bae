"""The composition root's second half: the order in which the parts of `assembly` start and stop.

    run
    └─ services   shared store, inbox, worker pool, disconnect watches, session reaper, prompt watcher   closes last
       └─ serving Hypercorn, or stdio
    stop: refuse new calls and say so on /readyz -> end listen streams -> let calls finish for `timeouts.grace_s`
          -> cancel the rest (`drain`) -> close the listener -> keep replies that clients have not got, and tell
          replicas what they have not heard and that nobody lives here -> stop services -> exit 0

A second signal ends the process at once; so does a watchdog when a peer that has stopped reading would hold it, or
afterwards a thread that a tool has left behind.

Called by: `cli`. Deliberately not: a place for behaviour.

Sources: architecture sections 3 and 4.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

import mcpd
from mcpd.assembly import Parts, build, open_stores
from mcpd.config import Config, Server
from mcpd.descriptors import claim_protocol, printing_to
from mcpd.errors import SHOWN_CHARS, ConfigurationError, leaves
from mcpd.events import Changed
from mcpd.gateway.access import Access, is_unix, startup_check
from mcpd.gateway.app import make_app, make_metrics_app
from mcpd.gateway.server.descriptors import claim as claim_descriptors
from mcpd.gateway.server.hypercorn import Connections, check_certificate, hypercorn_config, serve_http
from mcpd.gateway.server.sockets import listening_ports, open_metrics_sockets, open_sockets
from mcpd.gateway.stdio import END_OF_INPUT_S, StdioTransport
from mcpd.messages.manager import MessageManager
from mcpd.messages.work import KeyedWork, TaskWork
from mcpd.monitoring import logs as logging_setup
from mcpd.monitoring.logs import Logs
from mcpd.monitoring.loop import LoopWatch
from mcpd.prompts.loader import FilePrompt
from mcpd.resources.documents import follow
from mcpd.signals import handle_signals, start_watchdog
from mcpd.supervision.link import Link

MAX_NAMED_TOOLS: Final = 20
"""Tools that the banner names; more are counted."""
MAX_EXPIRY_WAIT_S: Final = 30.0
_STDOUT: Final = 1
_SHARED: Final = "shares changes, HTTP sessions, tasks, idempotency keys, rates and cached results"
LEAVE_S = 5.0
"""What the interpreter's own end may take; it waits for threads that tools have left, without a bound of its own."""
_log = logging.getLogger("mcpd")


def serve(config: Config, link: Link | None = None) -> int:
    """Run the HTTP server until a signal; returns the exit code. `link` makes it one of several workers.

    Raises: ConfigurationError, RegistrationError, StorageError.
    """
    logs = logging_setup.configure(config.server.log_level)
    try:
        with printing_to(logs.printed, "stdout", "stderr"):
            trio.run(_serve, config, logs, link)
            start_watchdog(LEAVE_S)
    except BaseExceptionGroup as group:
        raise _only(group) from None
    finally:
        logs.close()
    return 0


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the one mistake of the configuration that a service has found at its start, else the group."""
    found = leaves(group)
    return found[0] if len(found) == 1 and isinstance(found[0], ConfigurationError) else group


async def _serve(config: Config, logs: Logs, link: Link | None) -> None:
    claim_descriptors(config.limits.max_connections)
    async with open_stores(config) as stores:
        parts = build(config, logs, stores)
        startup_check(config, parts.keys)
        check_certificate(config.server)
        sockets = open_sockets(config.server, config.timeouts) if link is None else link.sockets
        try:
            await _serve_until_signal(parts, sockets, link)
        finally:
            for sock in sockets:
                sock.close()


async def _serve_until_signal(parts: Parts, sockets: list[socket.socket], link: Link | None) -> None:
    stopping = trio.Event()
    async with trio.open_nursery() as signals:
        if link is None:
            signals.start_soon(_handle_signals, parts, stopping, partial(reload_keys, parts))
        else:
            parts.metrics.gather = link.gather
            await signals.start(link.run, parts.metrics.report)
            signals.start_soon(
                partial(_handle_signals, parts, stopping, partial(_reload_told, parts, link), quiet=True)
            )
        async with trio.open_nursery() as running:
            await running.start(
                partial(run_http, parts, sockets, stopping, None if link is None else link.metrics_sockets)
            )
            # What the start has made stays: a full collection that walked all of it would hold the loop for 25 ms.
            gc.freeze()
            announce = _announce if link is None else link.ready
            announce(banner(parts, sockets))
        signals.cancel_scope.cancel()


def _reload_told(parts: Parts, link: Link) -> None:
    reload_keys(parts)
    link.reloaded()


async def run_http(
    parts: Parts,
    sockets: list[socket.socket],
    stopping: trio.Event,
    metrics_sockets: list[socket.socket] | None = None,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on `sockets` until `stopping` is set, then stop in order; scrapes on `metrics_sockets`, or on its own.

    Reports started when clients can connect. Cancellation: safe, but nobody is waited for. Resources: the caller closes
    the sockets.
    """
    config = parts.config
    access = Access(config.server, parts.keys, ports=listening_ports(sockets))
    closed = trio.Event()
    async with trio.open_nursery() as services:
        await _start_services(parts, services)
        await services.start(parts.shared.agree, parts.ring.kids)
        application = make_app(
            config,
            parts.manager,
            parts.sessions,
            access,
            watch=(parts.metrics, parts.health, parts.logs),
            nursery=services,
        )
        services.start_soon(_expire_keys, parts)
        connections = Connections(
            config.limits,
            config.timeouts,
            parts.metrics,
            trusted=config.server.trusted_proxies,
            log=parts.logs.request,
        )
        async with trio.open_nursery() as serving:
            await serving.start(_listen, application, hypercorn_config(config, sockets), connections, closed)
            if config.server.metrics_bind is not None:
                scraped = metrics_sockets or open_metrics_sockets(config.server, config.timeouts)
                await _start_metrics_listener(parts, scraped, serving, connections, closed)
            task_status.started()
            await stopping.wait()
            await _stop(parts)
            closed.set()
        await _stop_services(parts, services)


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
    parts: Parts, sockets: list[socket.socket], serving: trio.Nursery, connections: Connections, closed: trio.Event
) -> None:
    config = parts.config
    plain = replace(config, server=replace(config.server, tls_cert=None))
    application = make_metrics_app(parts.metrics, parts.logs)
    await serving.start(_listen, application, hypercorn_config(plain, sockets), connections, closed)
    for sock in sockets:
        sock.close()


async def _start_services(parts: Parts, services: trio.Nursery) -> None:
    await services.start(parts.shared.run)
    await services.start(parts.inbox.run)
    await services.start(parts.manager.calls.run)
    await services.start(LoopWatch(parts.metrics, partial(_running, parts.manager)).run)
    await services.start(parts.workers.run)
    if parts.manager.recorder is not None:
        await services.start(parts.manager.recorder.run)
    services.start_soon(parts.sessions.expire)
    if parts.documents is not None:
        await services.start(follow, parts.documents, parts.bus)
    tasks = parts.manager.service.tasks
    if tasks is not None:
        await services.start(tasks.run, partial(TaskWork, parts.manager))
    if parts.keyed is not None:
        await services.start(parts.keyed.run, partial(KeyedWork, parts.manager))
    if parts.loader is not None:

        def adopt(found: list[FilePrompt]) -> None:
            if parts.prompts.adopt(found):
                parts.bus.publish(Changed("prompts"))

        await services.start(parts.loader.run, adopt)


async def _stop_services(parts: Parts, services: trio.Nursery) -> None:
    with trio.move_on_after(parts.config.timeouts.cleanup_s):
        await parts.sessions.kept.flush()
        await parts.shared.flush()
        await parts.inbox.leave()
    services.cancel_scope.cancel()


async def _stop(parts: Parts) -> None:
    parts.health.draining = True
    tasks = parts.manager.service.tasks
    if tasks is not None:
        tasks.drain()
    await parts.manager.drain()
    if tasks is not None:
        await tasks.wait_settled()
    if parts.keyed is not None:
        await parts.keyed.wait_settled()
    with trio.move_on_after(parts.config.timeouts.cleanup_s):
        await parts.sessions.flush()
    parts.sessions.leave_all("drain")


def _running(manager: MessageManager) -> Iterator[str]:
    for flight in manager.in_flight():
        target = flight.call.params.get("name") or flight.call.params.get("uri") or ""
        yield f"{flight.call.method} {str(target)[:SHOWN_CHARS]}".rstrip()


async def _handle_signals(
    parts: Parts, stopping: trio.Event, reload: Callable[[], None] | None = None, *, quiet: bool = False
) -> None:
    await handle_signals(stopping, reload, patience_s=parts.config.timeouts.stop_s, quiet=quiet)


def reload_keys(parts: Parts) -> None:
    """Read the keys again and end what has none any longer (SIGHUP). Not a checkpoint."""
    keys = parts.keys
    try:
        keys.reload()
    except ConfigurationError as error:
        _log.error("keys not reloaded, the old ones stay: %s", error)
        return
    _log.info("keys reloaded: %d in %s", len(keys.list()), keys.path)
    if keys.locked:
        _log.warning("there is no key, and every request needs one; make one: mcpd keys new NAME, then SIGHUP")
    _end_unadmitted(parts)


async def _expire_keys(parts: Parts) -> None:
    """End what expired keys have open, until cancelled. Looks at the clock now and then, since it can be set."""
    while True:
        end_s = parts.keys.next_expiry_s()
        await trio.sleep(min(max(end_s - time.time(), 0), MAX_EXPIRY_WAIT_S))
        if time.time() >= end_s:
            _log.info("a key has expired")
            _end_unadmitted(parts)


def _end_unadmitted(parts: Parts) -> None:
    """End the calls, streams, sessions and connections of callers that would not be let in again."""
    for flight in parts.manager.in_flight():
        if not parts.keys.holds(flight.call.principal):
            flight.cancel("admin")
    parts.sessions.close_of(lambda principal: not parts.keys.holds(principal))
    parts.keys.announce()


def banner(parts: Parts, sockets: list[socket.socket]) -> list[str]:
    """Return where the server is and what it opens to whom, a line each."""
    return [f"mcpd {mcpd.__version__}", *_places(parts.config.server, sockets), *describe(parts)]


def _announce(lines: list[str]) -> None:
    """Say it on stdout; without a reader of stdout the server goes on."""
    try:
        if sys.stdout is not None:
            os.write(_STDOUT, "\n".join([*lines, ""]).encode("utf-8", "backslashreplace"))
    except OSError as error:
        _log.warning("stdout cannot be written to, the server goes on: %s", error.strerror)


def _places(server: Server, sockets: list[socket.socket]) -> list[str]:
    if is_unix(server):
        return [f"  socket     {server.bind}   /mcp /ws /healthz /readyz /metrics"]
    scheme = "https" if server.tls_cert else "http"
    host = f"[{server.host}]" if ":" in server.host else server.host
    base = f"{host}:{listening_ports(sockets)[0]}"
    return [
        f"  MCP        {scheme}://{base}/mcp   ws{scheme[4:]}://{base}/ws",
        f"  operations {scheme}://{base}/healthz /readyz /metrics",
    ]


def describe(parts: Parts) -> list[str]:
    """Return what a server opens, and to whom, a line each: data, the folder that models can read, tools, keys."""
    config = parts.config
    root = config.files.folder(working=Path.cwd(), home=Path.home())
    may = "read and write" if config.files.write else "read"
    names = [tool.name for tool in parts.tools.catalog]
    asked = "every request needs one" if parts.keys.required else "none: whoever reaches the server may use it"
    asked += ", and there is none: mcpd keys new NAME" if parts.keys.locked else ""
    more = f" and {len(names) - MAX_NAMED_TOOLS} more" if len(names) > MAX_NAMED_TOOLS else ""
    return [
        f"  data       {config.data.folder.absolute()} (embedded)",
        *_workers(config.server),
        *([] if config.redis.url is None else [f"  redis      {config.redis.url}   {_SHARED}"]),
        "  files      none" if root is None else f"  files      models can {may} {root.absolute()}",
        f"  tools      {', '.join(names[:MAX_NAMED_TOOLS]) or 'none'}{more}",
        f"  keys       {asked}",
    ]


def _workers(server: Server) -> list[str]:
    return [f"  workers    {server.workers}"] if server.workers > 1 else []


def stdio(config: Config) -> int:
    """Serve one client on stdin and stdout until end of input or a signal; returns the exit code.

    Raises: ConfigurationError, RegistrationError, StorageError.
    """
    source, sink = claim_protocol()
    logs = logging_setup.configure(config.server.log_level)
    try:
        with printing_to(logs.printed, "stdout", "stderr"):
            trio.run(_stdio, config, logs, source, sink)
            start_watchdog(LEAVE_S)
    finally:
        logs.close()
    return 0


async def _stdio(config: Config, logs: Logs, source: int, sink: int) -> None:
    patience_s = END_OF_INPUT_S + config.timeouts.end_s
    stopping = trio.Event()
    claim_descriptors(0)
    async with open_stores(config) as stores:
        parts = build(config, logs, stores)
        for line in describe(parts)[1:-1]:
            _log.info("%s", " ".join(line.split()))
        async with trio.open_nursery() as signals:
            signals.start_soon(_handle_signals, parts, stopping)
            await run_stdio(parts, source, sink, stopping, on_end=partial(start_watchdog, patience_s))
            signals.cancel_scope.cancel()


async def run_stdio(
    parts: Parts, stdin_fd: int, stdout_fd: int, stopping: trio.Event, *, on_end: Callable[[], None] = lambda: None
) -> None:
    """Serve one client on two descriptors until end of input, or until `stopping` is set; then stop in order.

    `on_end` is called at the end of input, when calls may still be finishing.
    Cancellation: safe, but nobody is waited for. Resources: both descriptors are closed.
    """
    transport = StdioTransport(parts.manager, parts.sessions, limits=parts.config.limits, on_end=on_end)
    async with trio.open_nursery() as services:
        await _start_services(parts, services)
        async with trio.open_nursery() as serving:
            serving.start_soon(_serve_stdio, transport, stdin_fd, stdout_fd, serving.cancel_scope)
            await stopping.wait()
            await _stop(parts)
            with trio.move_on_after(parts.config.timeouts.write_s):
                await transport.flush()
            serving.cancel_scope.cancel()
        await _stop_services(parts, services)


async def _serve_stdio(transport: StdioTransport, stdin_fd: int, stdout_fd: int, serving: trio.CancelScope) -> None:
    await transport.run(stdin_fd, stdout_fd)
    serving.cancel()
