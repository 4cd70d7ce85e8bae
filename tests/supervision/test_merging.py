"""What several processes report as one: sums, what is not summed, and that nothing counted is lost."""

from __future__ import annotations

from mcpd.monitoring.merging import Family, count, lasting, merge
from mcpd.monitoring.metrics import Metrics


def served(calls: int, sessions: float) -> Metrics:
    """Return the metrics of a process that has had so many calls."""
    metrics = Metrics(methods=("tools/call",))
    for _ in range(calls):
        metrics.request_finished("http", "tools/call", "ok", 0.002)
    metrics.watch("sessions", lambda: sessions)
    metrics.watch("tasks", lambda: 7, "working")
    return metrics


def lines(metrics: Metrics, families: list[Family] | None = None) -> set[str]:
    text = metrics.exposition(None, families)[0].decode()
    return {line for line in text.splitlines() if line.startswith("mcpd_")}


def test_what_travels_and_comes_back_is_the_same_text() -> None:
    metrics = served(3, 2)
    for accept in (None, "application/openmetrics-text; version=1.0.0"):
        own, back = metrics.exposition(accept)[0], metrics.exposition(accept, metrics.report())[0]
        assert [line for line in own.splitlines() if not line.startswith(b"process")] == [
            line for line in back.splitlines() if not line.startswith(b"process")
        ]


def test_counters_histograms_and_gauges_are_summed_but_what_all_read_from_one_store_is_not() -> None:
    one, other = served(3, 2), served(4, 1)
    found = lines(one, merge([one.report(), other.report()]))
    assert 'mcpd_requests_total{method="tools/call",outcome="ok",transport="http"} 7.0' in found
    assert 'mcpd_request_duration_seconds_bucket{le="0.0025",method="tools/call",transport="http"} 7.0' in found
    assert 'mcpd_request_duration_seconds_bucket{le="0.001",method="tools/call",transport="http"} 0.0' in found
    assert "mcpd_sessions 3.0" in found
    assert 'mcpd_tasks{state="working"} 7.0' in found
    assert {line.rpartition(" ")[2] for line in found if line.startswith("mcpd_build_info")} == {"1.0"}


def test_the_start_of_the_server_is_that_of_its_oldest_process() -> None:
    starts = [
        Family("process_start_time_seconds", "gauge", "", ((("process_start_time_seconds", ()), at),)) for at in (9, 5)
    ]
    assert merge([[start] for start in starts])[0].samples[0][1] == 5


def test_what_a_process_had_counted_stays_and_what_it_had_does_not() -> None:
    one, other = served(3, 2), served(4, 1)
    found = lines(one, merge([one.report(), lasting(other.report())]))
    assert 'mcpd_requests_total{method="tools/call",outcome="ok",transport="http"} 7.0' in found
    assert "mcpd_sessions 2.0" in found


def test_a_count_of_the_supervisors_adds_to_the_one_that_is_declared() -> None:
    found = lines(served(0, 0), merge([served(0, 0).report(), [count("mcpd_worker_restarts", 2)]]))
    assert "mcpd_worker_restarts_total 2.0" in found
