"""Every metric of mcpd, declared here once, in a registry of its own.

The names are a contract with dashboards and alerts. One object is made by the composition root and handed to the
packages; they call a method per event and know nothing of Prometheus. What somebody else already counts (calls in
flight, sessions, stuck threads) is not counted again but read at scrape time through `watch`.

Called by: every package but `wire` and `drivers`; `gateway.operations` for the text. Calls `monitoring.series`, and
`monitoring.merging` where several processes are one server.
Deliberately not: a judge of outcomes; callers say which it was.

Laws: labels are bounded: an unknown method or tool is `other`; a client that leaves is `cancelled`, never an error; the
three methods of a finished call together cost a few microseconds; methods are called on the Trio thread.

Sources: surfaces "Metrics"; OpenTelemetry semantic conventions for MCP (`mcp.server.operation.duration`);
OpenMetrics 1.0.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Gauge, Info, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from mcpd.errors import REASONS
from mcpd.monitoring.merging import Family
from mcpd.monitoring.series import OTHER, Count, Counter, Histogram, Registry, Spread

OUTCOMES = frozenset({"ok", "tool_error", "protocol_error", "cancelled", "deadline", "rejected", "internal_error"})
TRANSPORTS = frozenset({"http", "websocket", "stdio", "rest", "graphql"})
BUDGETS = ("request", "tool", "server")
KEYED_OUTCOMES = ("ran", "joined", "replayed", "mismatch", "refused", "unavailable")
RECORDS_LOST = ("full", "stopped", "unfit")
SEARCH_MODES = ("text", "semantic", "hybrid")
_DURATIONS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_OPERATION_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
_STORE_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_CANCEL_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_OPENMETRICS, _OPENMETRICS_TYPE = choose_encoder("application/openmetrics-text; version=1.0.0")
_PLAIN, _PLAIN_TYPE = choose_encoder("text/plain")


class _Finished(NamedTuple):
    """The series that one kind of finished request or tool call touches."""

    ended: Count
    duration: Spread


class _Call(NamedTuple):
    """The series that one kind of finished call touches."""

    ended: Count
    duration: Spread
    operation: Spread


class Metrics:
    """All metrics. `methods` and `versions` are the known label values; tools are made known as they are registered."""

    def __init__(self, *, version: str = "", methods: Iterable[str] = (), versions: Iterable[str] = ()) -> None:
        self.registry = Registry()
        self.gather: Callable[[], Awaitable[Sequence[Family] | None]] | None = None
        """Gives the values of all processes of this server, None when it cannot; None itself: this is the only one."""
        self._methods = frozenset(methods)
        self._versions = frozenset(versions)
        self._tools: set[str] = set()
        self._finished: dict[tuple[str, str, str], _Finished] = {}
        self._tool_finished: dict[tuple[str, str], _Finished] = {}
        self._store_finished: dict[tuple[str, str, str], _Finished] = {}
        self._calls: dict[tuple[str, str, str, str], _Call] = {}
        self._declare_calls(self.registry)
        self._declare_refusals(self.registry)
        self._declare_gauges(self.registry)
        Info("mcpd_build", "What is running.", registry=self.registry).info(
            {"version": version, "python": platform.python_version()}
        )
        ProcessCollector(registry=self.registry)

    def _declare_calls(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "mcpd_requests", "Requests that ended, by how they ended.", ("transport", "method", "outcome"), registry
        )
        self.request_duration = Histogram(
            "mcpd_request_duration_seconds",
            "From the request's last byte to its answer.",
            ("transport", "method"),
            _DURATIONS_S,
            registry,
        )
        self.operation_duration = Histogram(
            "mcp_server_operation_duration_seconds",
            "The same time under OpenTelemetry's name.",
            ("mcp_method_name", "mcp_protocol_version", "error_type"),
            _OPERATION_S,
            registry,
        )
        self.tool_calls = Counter("mcpd_tool_calls", "Tool calls that ended.", ("tool", "outcome"), registry)
        self.tool_duration = Histogram(
            "mcpd_tool_duration_seconds", "What the tool itself took.", ("tool",), _DURATIONS_S, registry
        )
        self.store_operations = Counter(
            "mcpd_store_operations",
            "What stores were asked, by how it ended.",
            ("store", "operation", "outcome"),
            registry,
        )
        self.store_operation_duration = Histogram(
            "mcpd_store_operation_duration_seconds",
            "What a store took, waiting for it included.",
            ("store", "operation"),
            _STORE_S,
            registry,
        )
        self.search_duration = Histogram(
            "mcpd_search_duration_seconds", "Searches answered, embedding included.", ("mode",), _DURATIONS_S, registry
        )

    def _declare_refusals(self, registry: CollectorRegistry) -> None:
        self.cancelled_calls = Counter("mcpd_cancelled", "Calls cancelled, by reason.", ("reason",), registry)
        self.cancel_latency = Histogram(
            "mcpd_cancel_latency_seconds", "From the wish to cancel to the end of the work.", (), _CANCEL_S, registry
        )
        self.deadline_exceeded = Counter(
            "mcpd_deadline_exceeded", "Calls out of time, by whose limit it was.", ("budget",), registry
        )
        self.outbox_dropped = Counter(
            "mcpd_outbox_dropped", "Messages not sent to a reader that is too slow.", ("policy",), registry
        )
        self.rejections = Counter("mcpd_rejected", "Requests refused at the transport or queue.", ("reason",), registry)
        self.log_lines_dropped = Counter(
            "mcpd_log_lines_dropped", "Log lines lost because stderr was full or closed.", (), registry
        )
        self.loop_stalls = Counter(
            "mcpd_loop_stalls", "Times that the event loop was held for over 0.5 s.", (), registry
        )
        self.loop_lag = Histogram(
            "mcpd_loop_lag_seconds", "How long one pass of the event loop kept all else waiting.", (), _LAG_S, registry
        )
        Counter("mcpd_worker_restarts", "Workers (server.workers) started anew after a death.", (), registry).of()
        self.cache_requests = Counter(
            "mcpd_cache_requests", "What a cache was asked, by what came of it.", ("cache", "result"), registry
        )
        self.idempotent_calls = Counter(
            "mcpd_idempotent_calls", "Calls with an idempotency key, by what came of it.", ("outcome",), registry
        )
        self.records_dropped = Counter(
            "mcpd_records_dropped", "Records of calls that are lost, by why.", ("reason",), registry
        )
        self.records_failed = Counter(
            "mcpd_records_failed", "Times that records could not be written and were kept to try again.", (), registry
        )
        self.records_failed.of()
        for reason in RECORDS_LOST:
            self.records_dropped.of(reason)
        for outcome in KEYED_OUTCOMES:
            self.idempotent_calls.of(outcome)
        for reason in REASONS:
            self.cancelled_calls.of(reason)
        for budget in BUDGETS:
            self.deadline_exceeded.of(budget)
        self.cancel_latency.of()
        self.loop_stalls.of()
        self.loop_lag.of()

    def _declare_gauges(self, registry: CollectorRegistry) -> None:
        declared = (
            Gauge("mcpd_calls_in_flight", "Calls running or queued.", ("transport",), registry=registry),
            Gauge("mcpd_abandoned_threads", "Threads whose call is over but not their work.", registry=registry),
            Gauge("mcpd_worker_processes", "Processes for process tools.", ("state",), registry=registry),
            Gauge("mcpd_sessions", "Sessions of stateful clients.", registry=registry),
            Gauge("mcpd_subscriptions", "Listen streams that are open.", registry=registry),
            Gauge("mcpd_connections", "Open connections.", ("transport",), registry=registry),
            Gauge("mcpd_store_connections", "Connections to stores.", ("store", "state"), registry=registry),
            Gauge("mcpd_tasks", "Tasks that are kept, as last counted.", ("state",), registry=registry),
            Gauge("mcpd_idempotency_keys", "Idempotency keys that are kept, as last counted.", registry=registry),
            Gauge("mcpd_tasks_running", "Tasks that this process runs.", registry=registry),
            Gauge("mcpd_records_pending", "Records of calls that wait to be written.", registry=registry),
        )
        names = (
            "calls_in_flight",
            "abandoned_threads",
            "worker_processes",
            "sessions",
            "subscriptions",
            "connections",
            "store_connections",
            "tasks",
            "idempotency_keys",
            "tasks_running",
            "records_pending",
        )
        self._gauges = dict(zip(names, declared, strict=True))

    def know_tools(self, names: Iterable[str]) -> None:
        """Let these tool names become labels; every other name counts as `other`."""
        self._tools.update(names)

    def request_finished(self, transport: str, method: str, outcome: str, seconds: float) -> None:
        """Count one request that ended; `seconds` is its whole duration."""
        finished = self._finished.get((transport, method, outcome)) or self._request(transport, method, outcome)
        finished.ended.value += 1
        finished.duration.observe(seconds)

    def call_finished(self, transport: str, method: str, version: str, outcome: str, seconds: float) -> None:
        """Count one request that was a call, also for OpenTelemetry's metric; `version` is the protocol revision."""
        kind = (transport, method, version, outcome)
        finished = self._calls.get(kind) or self._call(*kind)
        finished.ended.value += 1
        finished.duration.observe(seconds)
        finished.operation.observe(seconds)

    def tool_finished(self, tool: str, outcome: str, seconds: float) -> None:
        """Count one call of a tool that ended; `seconds` is what the tool itself took."""
        finished = self._tool_finished.get((tool, outcome)) or self._tool(tool, outcome)
        finished.ended.value += 1
        finished.duration.observe(seconds)

    def store_finished(self, store: str, operation: str, outcome: str, seconds: float) -> None:
        """Count one operation of a store that ended; all three are words of the code."""
        finished = self._store_finished.get((store, operation, outcome))
        if finished is None:
            ended = self.store_operations.of(store, operation, outcome)
            finished = _Finished(ended, self.store_operation_duration.of(store, operation))
            self._store_finished[store, operation, outcome] = finished
        finished.ended.value += 1
        finished.duration.observe(seconds)

    def watch_store(self, store: str, state: str, read: Callable[[], float]) -> None:
        """Let `read` say at scrape time how many connections to a store are in a state."""
        self.watch("store_connections", read, store, state)

    def search_finished(self, mode: str, seconds: float) -> None:
        """Record one search that was answered; `mode` is the one that it ran in."""
        self.search_duration.of(_within(mode, SEARCH_MODES)).observe(seconds)

    def cancelled(self, reason: str, latency_s: float | None = None) -> None:
        """Count one cancelled call; `latency_s` runs from the wish to the end of the work, None if it was abandoned."""
        self.cancelled_calls.inc(_within(reason, REASONS))
        if latency_s is not None:
            self.cancel_latency.of().observe(latency_s)

    def deadline(self, budget: str) -> None:
        """Count one call out of time; `budget` is `request`, `tool` or `server`."""
        self.deadline_exceeded.inc(_within(budget, BUDGETS))

    def rejected(self, reason: str) -> None:
        """Count one refusal; `reason` is a word of the code, never of the client."""
        self.rejections.inc(reason)

    def dropped(self, policy: str, count: int = 1) -> None:
        """Count messages not sent; `policy` names the rule that dropped them."""
        self.outbox_dropped.inc(policy, by=count)

    def keyed_call(self, outcome: str) -> None:
        """Count what came of a call with an idempotency key, one of `KEYED_OUTCOMES`."""
        self.idempotent_calls.inc(_within(outcome, KEYED_OUTCOMES))

    def cache_asked(self, cache: str, result: str) -> None:
        """Count one request to a cache; both are words of the code (`resources.cache`, `search.embeddings`)."""
        self.cache_requests.inc(cache, result)

    def watch(self, gauge: str, read: Callable[[], float], *labels: str) -> None:
        """Let `read` give a gauge's value at scrape time; `gauge` is its name without `mcpd_`.

        Raises: KeyError for a gauge that is not declared here.
        """
        declared = self._gauges[gauge]
        (declared.labels(*labels) if labels else declared).set_function(read)

    async def scrape(self, accept: str | None) -> tuple[bytes, str] | None:
        """Return the metrics of the whole server as `exposition`; None when they cannot be had now."""
        if self.gather is None:
            return self.exposition(accept)
        families = await self.gather()
        return None if families is None else self.exposition(accept, families)

    def exposition(self, accept: str | None, families: Sequence[Family] | None = None) -> tuple[bytes, str]:
        """Return all metrics as text, with its content type: OpenMetrics when `accept` asks for it, else Prometheus.

        With `families`, those instead of this process's own.
        """
        registry = self.registry if families is None else _registry_of(families)
        if _prefers_openmetrics(accept or ""):
            return _OPENMETRICS(registry), _OPENMETRICS_TYPE
        return _PLAIN(registry), _PLAIN_TYPE

    def report(self) -> list[Family]:
        """Return the values of this process, to be merged with those of others."""
        return self.registry.report()

    def _request(self, transport: str, method: str, outcome: str) -> _Finished:
        known = (_within(transport, TRANSPORTS), _within(method, self._methods), _within(outcome, OUTCOMES))
        finished = _Finished(self.requests.of(*known), self.request_duration.of(*known[:2]))
        if known == (transport, method, outcome):
            self._finished[known] = finished
        return finished

    def _call(self, transport: str, method: str, version: str, outcome: str) -> _Call:
        known = _within(method, self._methods), _within(version, self._versions), _within(outcome, OUTCOMES)
        error = "" if known[2] == "ok" else known[2]
        finished = _Call(*self._request(transport, method, outcome), self.operation_duration.of(*known[:2], error))
        if transport in TRANSPORTS and known == (method, version, outcome):
            self._calls[transport, method, version, outcome] = finished
        return finished

    def _tool(self, tool: str, outcome: str) -> _Finished:
        known = (_within(tool, self._tools), _within(outcome, OUTCOMES))
        finished = _Finished(self.tool_calls.of(*known), self.tool_duration.of(known[0]))
        if known == (tool, outcome):
            self._tool_finished[known] = finished
        return finished


class _Reported(Collector):
    """Gives the registry what was reported."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        for family in self._families:
            metric = Metric(family.name, family.documentation, family.kind)
            for (name, labels), value in family.samples:
                metric.add_sample(name, dict(labels), value)
            yield metric


def _registry_of(families: Sequence[Family]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_Reported(families))
    return registry


def _within(value: str, known: Iterable[str]) -> str:
    return value if value in known else OTHER


def _prefers_openmetrics(accept: str) -> bool:
    """True if OpenMetrics 1.0 is accepted and plain text is not preferred to it.

    The library's own choice is not used: it fails on a version that is no number and repeats any version it is sent.
    """
    best = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for item in accept.lower().split(","):
        media, *parameters = (part.strip() for part in item.split(";"))
        given = dict(parameter.partition("=")[::2] for parameter in parameters)
        if media == "text/plain" or given.get("version", "1.0.0") == "1.0.0":
            best[media] = max(best.get(media, 0.0), _quality(given.get("q", "1")))
    return best["application/openmetrics-text"] > 0 and best["application/openmetrics-text"] >= best["text/plain"]


def _quality(text: str) -> float:
    return float(text) if re.fullmatch(r"[01](\.[0-9]{0,3})?", text) else 0.0
