"""The bounds of everything that a peer can reach: `Timeouts` for waits, `Limits` for sizes and numbers.

Called by: `config`, which offers them beside the other sections. Deliberately not: bounds that no operator would
change, which are constants beside their use.

Laws: every setting has unit, default and reason; times are seconds (`*_s`), sizes bytes (`*_bytes`).

Sources: architecture law 8; SEC-4.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mcpd.config.about import KIB, MIB, about, count, seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Every wait that ends by itself."""

    call_s: float = field(default=60.0, metadata=seconds("A call whose tool and caller name no limit."))
    call_max_s: float = field(default=600.0, metadata=seconds("The most that a tool or a caller can ask for."))
    task_after_s: float = field(default=60.0, metadata=seconds("A tool that may take longer may become a task."))
    task_max_s: float = field(default=3600.0, metadata=seconds("A task whose tool names no limit, and the most."))
    task_keep_s: float = field(
        default=3600.0, metadata=seconds("After its end, for its client to come back; then it is forgotten.")
    )
    idempotency_keep_s: float = field(default=86_400.0, metadata=seconds("An agent may come back the next day."))
    lease_s: float = field(default=6.0, metadata=seconds("Without a beat in Redis a server counts as dead.", minimum=1))
    input_s: float = field(default=300.0, metadata=seconds("People need minutes to answer a question of a tool."))
    grace_s: float = field(default=10.0, metadata=seconds("Calls may finish after the first Ctrl-C.", minimum=0))
    write_s: float = field(default=15.0, metadata=seconds("A peer that stops reading is cut off."))
    header_s: float = field(default=10.0, metadata=seconds("A request head trickling in holds a connection."))
    body_s: float = field(default=30.0, metadata=seconds("A request body trickling in holds a connection."))
    keep_alive_s: float = field(default=75.0, metadata=seconds("Longer than the 60 s of usual proxies."))
    ping_s: float = field(default=15.0, metadata=seconds("Half of the shortest usual idle limit of proxies, 30 s."))
    session_idle_s: float = field(default=1800.0, metadata=seconds("A session nobody uses is forgotten."))
    request_state_s: float = field(default=600.0, metadata=seconds("Sealed state of a question expires."))
    cleanup_s: float = field(default=2.0, metadata=seconds("What a cancelled tool's `finally` may still take."))

    @property
    def stop_s(self) -> float:
        """The most that an orderly stop takes: calls finish, are cancelled, and what is left is sent and closed."""
        return self.grace_s + self.end_s

    @property
    def end_s(self) -> float:
        """What a stop takes besides the grace that calls have."""
        return 4 * self.cleanup_s + self.write_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every buffer, queue, batch and depth. Full means an early, clear refusal unless the reason says otherwise."""

    max_body_bytes: int = field(default=4 * MIB, metadata=count("bytes", "Room for a 3 MB blob in base64."))
    max_depth: int = field(default=64, metadata=count("levels", "Deeper JSON is an attack, not an argument."))
    max_header_bytes: int = field(
        default=32 * KIB, metadata=count("bytes", "Room for mirrored arguments and a token.", minimum=1024)
    )
    max_calls: int = field(default=256, metadata=count("calls", "Running at once; beyond it calls queue."))
    rate: str | None = field(
        default=None,
        metadata=about("calls/time", "Of one caller: `100/m`, `5/10s`; by key, by address without keys. Off."),
    )
    tool_rate: str | None = field(
        default=None, metadata=about("calls/time", "Of one tool by one caller, unless `@tool(rate=...)` says. Off.")
    )
    max_queued_calls: int = field(
        default=256, metadata=count("calls", "One more round of calls; beyond it: overloaded.", minimum=0)
    )
    max_calls_per_connection: int = field(
        default=128, metadata=count("calls", "One WebSocket or stdio client cannot take all of max_calls.")
    )
    max_batch_items: int = field(default=64, metadata=count("messages", "Batches exist only in 2025-03-26."))
    max_connections: int = field(default=1000, metadata=count("connections", "Below the usual limit of open files."))
    max_connections_per_address: int = field(
        default=500, metadata=count("connections", "One client cannot take all; trusted proxies are exempt.")
    )
    max_listen_streams: int = field(default=1000, metadata=count("streams", "Each holds a connection open."))
    max_subscription_uris: int = field(default=256, metadata=count("URIs", "Of one listen stream or session."))
    max_tasks: int = field(default=1000, metadata=count("tasks", "Kept at once, ended ones too: 1 GiB at the most."))
    max_tasks_per_principal: int = field(
        default=500, metadata=count("tasks", "One caller cannot take all of max_tasks.")
    )
    max_idempotency_keys: int = field(
        default=20_000, metadata=count("keys", "Kept at once, each with up to 64 KiB of outcome.")
    )
    max_idempotency_keys_per_principal: int = field(
        default=10_000, metadata=count("keys", "One caller cannot take all of max_idempotency_keys.")
    )
    max_sessions: int = field(default=1000, metadata=count("sessions", "Each may hold all stream buffers below."))
    max_sessions_per_principal: int = field(
        default=200, metadata=count("sessions", "One caller cannot take all of max_sessions.")
    )
    max_streams_per_session: int = field(default=32, metadata=count("streams", "Resumable replies of one session."))
    max_stream_events: int = field(
        default=256, metadata=count("events", "Kept for a client that resumes; the oldest goes first.")
    )
    max_stream_bytes: int = field(
        default=1 * MIB, metadata=count("bytes", "Kept for a client that resumes; the oldest goes first.")
    )
    max_outbox_items: int = field(
        default=256, metadata=count("messages", "Waiting for a slow reader; then progress and log are dropped.")
    )
    max_message_bytes: int = field(default=4 * MIB, metadata=count("bytes", "A WebSocket message or stdio line."))
    max_threads: int = field(default=40, metadata=count("threads", "For tools written as plain `def`."))
    max_abandoned_threads: int = field(
        default=20, metadata=count("threads", "Of half the pool one caller may have three quarters stuck.")
    )
    worker_processes: int = field(
        default=1, metadata=count("processes", "Kept warm for process tools; a cold one takes 50 ms.", minimum=0)
    )
    max_worker_processes: int = field(default=4, metadata=count("processes", "Process tools running at once."))
    max_result_bytes: int = field(default=16 * MIB, metadata=count("bytes", "Of an answer as JSON; more is an error."))
    page_size: int = field(default=100, metadata=count("items", "A listing's page."))
    max_cache_bytes: int = field(default=64 * MIB, metadata=count("bytes", "Resources read lately, in memory."))
    max_read_bytes: int = field(default=1 * MIB, metadata=count("bytes", "Of one read_file; it can go on."))
    max_write_bytes: int = field(default=1 * MIB, metadata=count("bytes", "Of one write_file."))
    max_list_items: int = field(default=1000, metadata=count("items", "Of one list_files; it can go on."))
    max_text_bytes: int = field(default=16 * MIB, metadata=count("bytes", "Of one ingested text; it is read whole."))
    max_blob_bytes: int = field(default=16 * MIB, metadata=count("bytes", "Of one ingested file that is no text."))
    max_hits: int = field(default=100, metadata=count("hits", "Of one search; it can go on."))
