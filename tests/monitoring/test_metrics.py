"""Metrics: names, bounded labels, and text that the client library's own parsers accept."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from mcpd.monitoring.metrics import Metrics
from mcpd.monitoring.series import MAX_SERIES_ITEMS, Counter, Histogram

PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;"
    "version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics(version="1.2.3", methods=["tools/call", "ping"], versions=["2026-07-28"])
    metrics.know_tools(["echo"])
    return metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_one_finished_tool_call_shows_in_five_series(metrics: Metrics) -> None:
    metrics.call_finished("http", "tools/call", "2026-07-28", "ok", 0.004)
    metrics.tool_finished("echo", "ok", 0.003)
    assert value(metrics, "mcpd_requests_total", transport="http", method="tools/call", outcome="ok") == 1
    assert value(metrics, "mcpd_request_duration_seconds_sum", transport="http", method="tools/call") == 0.004
    assert value(metrics, "mcpd_tool_calls_total", tool="echo", outcome="ok") == 1
    assert value(metrics, "mcpd_tool_duration_seconds_count", tool="echo") == 1
    operation = {"mcp_method_name": "tools/call", "mcp_protocol_version": "2026-07-28", "error_type": ""}
    assert value(metrics, "mcp_server_operation_duration_seconds_count", **operation) == 1


def test_a_failed_operation_has_its_outcome_as_error_type(metrics: Metrics) -> None:
    metrics.call_finished("http", "ping", "2026-07-28", "deadline", 1.0)
    operation = {"mcp_method_name": "ping", "mcp_protocol_version": "2026-07-28", "error_type": "deadline"}
    assert value(metrics, "mcp_server_operation_duration_seconds_count", **operation) == 1


@settings(deadline=None)
@given(words=st.lists(st.text(max_size=20), min_size=4, max_size=4))
def test_words_of_a_client_never_become_labels(words: list[str]) -> None:
    metrics = Metrics(methods=["ping"], versions=["2026-07-28"])
    metrics.know_tools(["echo"])
    transport, method, outcome, version = (f"?{word}" for word in words)
    metrics.request_finished(transport, method, outcome, 0.1)
    metrics.call_finished(transport, method, version, outcome, 0.1)
    metrics.tool_finished(method, outcome, 0.1)
    metrics.cancelled(outcome, 0.1)
    metrics.deadline(outcome)
    assert "?" not in metrics.exposition(None)[0].decode()
    assert value(metrics, "mcpd_requests_total", transport="other", method="other", outcome="other") == 2
    assert value(metrics, "mcpd_tool_calls_total", tool="other", outcome="other") == 1


def test_words_of_a_client_take_no_memory(metrics: Metrics) -> None:
    """SEC-4."""
    for number in range(100):
        word = f"m{number}"
        metrics.request_finished("http", word, "protocol_error", 0.1)
        metrics.call_finished("http", word, word, "protocol_error", 0.1)
        metrics.call_finished(word, "ping", "2026-07-28", "protocol_error", 0.1)
        metrics.tool_finished(word, "protocol_error", 0.1)
    assert (len(metrics._finished), len(metrics._calls), len(metrics._tool_finished)) == (0, 0, 0)


def test_a_tool_becomes_a_label_once_it_is_known(metrics: Metrics) -> None:
    metrics.tool_finished("late", "ok", 0.1)
    metrics.know_tools(["late"])
    metrics.tool_finished("late", "ok", 0.1)
    assert value(metrics, "mcpd_tool_calls_total", tool="other", outcome="ok") == 1
    assert value(metrics, "mcpd_tool_calls_total", tool="late", outcome="ok") == 1


def test_cancellations_deadlines_and_refusals_are_counted_from_zero(metrics: Metrics) -> None:
    assert value(metrics, "mcpd_cancelled_total", reason="client_gone") == 0
    assert value(metrics, "mcpd_deadline_exceeded_total", budget="tool") == 0
    metrics.cancelled("client_gone", 0.002)
    metrics.cancelled("client_gone")
    metrics.deadline("tool")
    metrics.rejected("host")
    metrics.dropped("progress", 3)
    assert value(metrics, "mcpd_cancelled_total", reason="client_gone") == 2
    assert value(metrics, "mcpd_cancel_latency_seconds_count") == 1
    assert value(metrics, "mcpd_deadline_exceeded_total", budget="tool") == 1
    assert value(metrics, "mcpd_rejected_total", reason="host") == 1
    assert value(metrics, "mcpd_outbox_dropped_total", policy="progress") == 3


def test_gauges_are_read_when_scraped(metrics: Metrics) -> None:
    calls: list[int] = []
    metrics.watch("calls_in_flight", lambda: len(calls), "http")
    metrics.watch("sessions", lambda: 7)
    metrics.log_lines_dropped.follow(lambda: 5)
    calls.append(1)
    assert value(metrics, "mcpd_calls_in_flight", transport="http") == 1
    assert value(metrics, "mcpd_sessions") == 7
    assert value(metrics, "mcpd_log_lines_dropped_total") == 5
    with pytest.raises(KeyError):
        metrics.watch("undeclared", lambda: 0)


@pytest.mark.parametrize(
    "name",
    [
        "mcpd_requests", "mcpd_request_duration_seconds", "mcp_server_operation_duration_seconds", "mcpd_tool_calls",
        "mcpd_tool_duration_seconds", "mcpd_calls_in_flight", "mcpd_cancelled", "mcpd_cancel_latency_seconds",
        "mcpd_deadline_exceeded", "mcpd_abandoned_threads", "mcpd_worker_processes", "mcpd_sessions",
        "mcpd_subscriptions", "mcpd_connections", "mcpd_outbox_dropped", "mcpd_rejected", "mcpd_build",
    ],
)  # fmt: skip
def test_every_promised_metric_is_declared(metrics: Metrics, name: str) -> None:
    assert name in {family.name for family in metrics.registry.collect()}


def test_the_build_is_named(metrics: Metrics) -> None:
    text = metrics.exposition(None)[0].decode()
    assert "mcpd_build_info{" in text
    assert 'version="1.2.3"' in text


def test_both_formats_are_accepted_by_the_librarys_parsers(metrics: Metrics) -> None:
    metrics.know_tools(['we"ird\\tool\n'])
    metrics.tool_finished('we"ird\\tool\n', "ok", 0.3)
    metrics.cancelled("explicit", 9.0)
    metrics.request_finished("http", "ping", "ok", 0.0005)
    for accept, parse in ((OPENMETRICS, parse_openmetrics), (None, parse_plain)):
        families = {family.name: family for family in parse(metrics.exposition(accept)[0].decode())}
        tools = {sample.labels["tool"] for sample in families["mcpd_tool_calls"].samples}
        assert tools == {'we"ird\\tool\n'}
        buckets = [s for s in families["mcpd_request_duration_seconds"].samples if s.name.endswith("_bucket")]
        assert (buckets[0].labels["le"], buckets[0].value) == ("0.0005", 1)
        assert buckets[-1].labels["le"] == "+Inf"


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        (None, False),
        ("*/*", False),
        ("text/plain", False),
        (OPENMETRICS, True),
        ("application/openmetrics-text", True),
        ("Application/OpenMetrics-Text; Version=1.0.0; charset=utf-8", True),
        ("application/openmetrics-text;version=0.0.1", False),
        ("application/openmetrics-text;version=abc", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=nan", False),
        ("application/openmetrics-text;q=0.5,text/plain;version=0.0.4;q=0.9", False),
        (PROMETHEUS_3, True),
        (";;;,,=", False),
    ],
)
def test_openmetrics_is_sent_to_who_prefers_it(metrics: Metrics, accept: str | None, openmetrics: bool) -> None:
    text, content_type = metrics.exposition(accept)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0" if openmetrics else "text/plain")
    assert text.endswith(b"# EOF\n") is openmetrics


@given(values=st.lists(st.floats(min_value=0, max_value=100), max_size=30))
def test_buckets_count_everything_at_or_under_their_bound(values: list[float]) -> None:
    registry = CollectorRegistry()
    spread = Histogram("h", "h", (), (1, 10), registry).of()
    for one in values:
        spread.observe(one)
    for bound, edge in ((1, "1.0"), (10, "10.0"), (float("inf"), "+Inf")):
        expected = sum(one <= bound for one in values)
        assert registry.get_sample_value("h_bucket", {"le": edge}) == expected
    assert registry.get_sample_value("h_count") == len(values)
    assert registry.get_sample_value("h_sum") == sum(values)


def test_the_number_of_series_is_bounded() -> None:
    registry = CollectorRegistry()
    counter = Counter("c", "c", ("reason",), registry)
    histogram = Histogram("h", "h", ("reason",), (1,), registry)
    for number in range(MAX_SERIES_ITEMS + 50):
        counter.inc(str(number))
        histogram.of(str(number)).observe(1)
    assert registry.get_sample_value("c_total", {"reason": "other"}) == 50
    assert registry.get_sample_value("h_count", {"reason": "other"}) == 50
    assert registry.get_sample_value("c_total", {"reason": str(MAX_SERIES_ITEMS)}) is None
