"""What mcpd can be told: frozen value objects, one per section of `mcpd.toml`.

A setting is one field with its default, unit and reason; the loader, `mcpd check` and the generated reference table
read these fields. Values are read once at start (`mcpd.settings.load`) and handed down by the composition root.

Called by: every package but `wire` and `drivers`, which are given plain numbers. Calls `secret`. Deliberately not: the
loading, which is `mcpd.settings`, and checks that need more than one section (`mcpd.gateway.access.startup_check`).

Laws: times are seconds as floats (`*_s`), sizes are bytes (`*_bytes`), counts are `max_*`; a secret is a `Secret` and
shows only as `***`; every bound that a peer can reach has a number in `Limits` or `Timeouts`.

Sources: surfaces "Configuration"; architecture law 8; SEC-3, SEC-4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from mcpd.secret import Secret, SecretUrl

KIB = 1024
MIB = 1024 * KIB


class About(NamedTuple):
    """What a setting's field says of itself besides its type and default."""

    unit: str
    reason: str
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]


def _about(
    unit: str,
    reason: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
) -> Mapping[str, About]:
    return {"about": About(unit, reason, minimum, maximum, choices)}


def _count(unit: str, reason: str, *, minimum: float = 1) -> Mapping[str, About]:
    return _about(unit, reason, minimum=minimum)


def _seconds(reason: str, *, minimum: float = 0.001) -> Mapping[str, About]:
    return _about("seconds", reason, minimum=minimum, maximum=86400 * 365)


TOOL_ERRORS = ("shown", "masked")
MAX_WORKERS = 64
LOG_LEVELS = ("debug", "info", "warning", "error")
RECORDED_ARGUMENTS = ("digest", "redacted", "full")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Who the server says it is, where it listens and whom it listens to."""

    name: str = field(default="mcpd", metadata=_about("text", "Clients show it and key their settings by it."))
    title: str | None = field(default=None, metadata=_about("text", "Shown by clients instead of the name."))
    instructions: str | None = field(
        default=None, metadata=_about("text", "Tells a model how to use this server; none is better than a guess.")
    )
    host: str = field(default="127.0.0.1", metadata=_about("address", "Loopback: nobody else can reach it."))
    port: int = field(default=8000, metadata=_about("TCP port", "0 takes a free one.", minimum=0, maximum=65535))
    bind: str | None = field(
        default=None, metadata=_about("unix:PATH or fd://N", "Replaces host and port, for a proxy on this machine.")
    )
    tls_cert: Path | None = field(default=None, metadata=_about("PEM file", "Needs tls_key; without it: plain HTTP."))
    tls_key: Path | None = field(default=None, metadata=_about("PEM file", "Needs tls_cert."))
    http2: bool = field(
        default=False, metadata=_about("true or false", "Offers HTTP/2 on TLS; it is less guarded than HTTP/1.1.")
    )
    allowed_hosts: tuple[str, ...] = field(
        default=(), metadata=_about("host[:port]", "Besides loopback names; stops DNS rebinding. `*` allows any.")
    )
    allowed_origins: tuple[str, ...] = field(
        default=(), metadata=_about("scheme://host[:port]", "Web pages that may call, besides the server's own.")
    )
    public_url: str | None = field(
        default=None, metadata=_about("URL", "The address clients use behind a proxy; its host and origin are allowed.")
    )
    trusted_proxies: tuple[str, ...] = field(
        default=(),
        metadata=_about("address, network or unix", "Only these name the client, in X-Forwarded-For or Forwarded."),
    )
    metrics_bind: str | None = field(
        default=None, metadata=_about("host:port", "Moves /metrics off the main listener, where it needs a scope.")
    )
    listing_ttl_s: float = field(
        default=60.0, metadata=_about("seconds", "Clients keep listings so long (`ttlMs`).", minimum=0, maximum=86400)
    )
    change_notices: bool = field(
        default=True,
        metadata=_about("true or false", "false: no `listChanged` and no `subscribe` offered."),
    )
    insecure: bool = field(
        default=False, metadata=_about("true or false", "Only true starts a non-loopback server without keys.")
    )
    workers: int = field(
        default=1,
        metadata=_about("processes", "One uses one core; more divide the limits.", minimum=1, maximum=MAX_WORKERS),
    )
    log_level: str = field(default="info", metadata=_about("level", "One line per request.", choices=LOG_LEVELS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """How callers prove who they are."""

    keys_file: Path | None = field(
        default=None, metadata=_about("TOML file", "Default: keys.toml in the data folder; hashes only.")
    )
    api_key: Secret | None = field(
        default=None, metadata=_about("secret", "One key with every scope, for set-ups without a keys file.")
    )
    seal_keys: Secret | None = field(
        default=None,
        metadata=_about("secrets", "`id:secret,...`: the first seals, all open. Default: seal.key in the data folder."),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The folder that the file tools work in."""

    enabled: bool = field(default=True, metadata=_about("true or false", "`--no-files` serves none of the file tools."))
    root: Path | None = field(
        default=None, metadata=_about("folder", "Default: the working folder, unless that is / or the home folder.")
    )
    write: bool = field(default=False, metadata=_about("true or false", "A model changes files only when told it may."))
    hidden: bool = field(
        default=False, metadata=_about("true or false", "Names with a leading dot often hold secrets and are unseen.")
    )

    def folder(self, *, working: Path, home: Path) -> Path | None:
        """Return the folder to serve; None without file tools, or when only a refused default is left (`/`, home)."""
        if not self.enabled:
            return None
        if self.root is not None:
            return self.root
        resolved = working.resolve()
        return None if resolved in (Path(resolved.anchor), home.resolve()) else resolved


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """Where tools, resources and prompts written by the user come from."""

    modules: tuple[str, ...] = field(
        default=(), metadata=_about("files or modules", "Loaded in this order, after the built-in tools.")
    )
    errors: str = field(
        default="shown",
        metadata=_about(
            "shown or masked",
            "A model reads `Type: message`; masked: see the log.",
            choices=TOOL_ERRORS,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Prompts that are files."""

    folder: Path | None = field(
        default=None, metadata=_about("folder", "Prompts in JSON and Markdown, reread when they change.")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What the server keeps."""

    folder: Path = field(
        default=Path(".mcpd"), metadata=_about("folder", "Keys, seal key and embedded store; hidden from file tools.")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Redis:
    """What several processes share, besides the data folder; without a URL each keeps it to itself."""

    url: SecretUrl | None = field(
        default=None, metadata=_about("URL", "redis://, rediss:// (TLS) or unix://; Redis 7.0, Valkey 8.0 or newer.")
    )
    prefix: str = field(
        default="mcpd:",
        metadata=_about("text", "Begins every key and channel: two servers that share nothing need two."),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Elasticsearch:
    """Where the documents are, for servers on several machines; without a URL they are in the data folder."""

    url: SecretUrl | None = field(
        default=None,
        metadata=_about("URL", "http:// or https:// of a node, of several with commas; Elasticsearch 8.12 or newer."),
    )
    api_key: Secret | None = field(default=None, metadata=_about("secret", "As Elasticsearch gives it, encoded."))
    user: str | None = field(default=None, metadata=_about("name", "Needs password; instead of api_key."))
    password: Secret | None = field(default=None, metadata=_about("secret", "Of user."))
    ca_file: Path | None = field(
        default=None, metadata=_about("file", "PEM of the authorities to trust, instead of the machine's.")
    )
    fingerprint: str | None = field(
        default=None, metadata=_about("hex", "SHA-256 of a certificate to trust, as Elasticsearch prints it.")
    )
    index_prefix: str = field(
        default="mcpd",
        metadata=_about("text", "Begins the name of every index: two servers that share nothing need two."),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """Where the vectors of semantic search come from: an endpoint, or the built-in ones, which are lexical."""

    url: str | None = field(
        default=None, metadata=_about("URL", "An OpenAI-compatible endpoint (.../v1); without it: built-in vectors.")
    )
    model: str | None = field(default=None, metadata=_about("name", "As the endpoint knows it; needs url."))
    dims: int | None = field(
        default=None,
        metadata=_about(
            "dimensions", "Vectors of another size are refused; default: the first.", minimum=1, maximum=8192
        ),
    )
    api_key: Secret | None = field(default=None, metadata=_about("secret", "Sent to the endpoint as a bearer token."))
    max_batch_items: int = field(default=32, metadata=_count("texts", "In one request; what usual endpoints take."))
    reply_s: float = field(default=60.0, metadata=_seconds("A batch on a busy machine without an accelerator."))
    patience_s: float = field(
        default=3.0, metadata=_seconds("A hybrid search goes on without vectors when they take longer.")
    )
    max_cache_bytes: int = field(
        default=32 * MIB, metadata=_count("bytes", "Vectors remembered: 20,000 of 384 dimensions.", minimum=0)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What is kept of calls that have ended."""

    enabled: bool = field(
        default=True, metadata=_about("true or false", "Who called what is asked when it is too late to switch it on.")
    )
    arguments: str = field(
        default="digest",
        metadata=_about(
            "digest, redacted or full",
            "Arguments may be secret: a digest; their keys with types and sizes; or all, to 4 KiB.",
            choices=RECORDED_ARGUMENTS,
        ),
    )
    keep_s: float = field(
        default=86_400.0 * 30,
        metadata=_about("seconds", "A month to notice and look into something.", minimum=1, maximum=86_400 * 3660),
    )
    max_items: int = field(
        default=250_000, metadata=_count("records", "About 100 MB; the oldest go first. Refusals: a tenth of it more.")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Every wait that ends by itself."""

    call_s: float = field(default=60.0, metadata=_seconds("A call whose tool and caller name no limit."))
    call_max_s: float = field(default=600.0, metadata=_seconds("The most that a tool or a caller can ask for."))
    task_after_s: float = field(default=60.0, metadata=_seconds("A tool that may take longer may become a task."))
    task_max_s: float = field(default=3600.0, metadata=_seconds("A task whose tool names no limit, and the most."))
    task_keep_s: float = field(
        default=3600.0, metadata=_seconds("After its end, for its client to come back; then it is forgotten.")
    )
    idempotency_keep_s: float = field(default=86_400.0, metadata=_seconds("An agent may come back the next day."))
    lease_s: float = field(
        default=6.0, metadata=_seconds("Without a beat in Redis a server counts as dead.", minimum=1)
    )
    input_s: float = field(default=300.0, metadata=_seconds("People need minutes to answer a question of a tool."))
    grace_s: float = field(default=10.0, metadata=_seconds("Calls may finish after the first Ctrl-C.", minimum=0))
    write_s: float = field(default=15.0, metadata=_seconds("A peer that stops reading is cut off."))
    header_s: float = field(default=10.0, metadata=_seconds("A request head trickling in holds a connection."))
    body_s: float = field(default=30.0, metadata=_seconds("A request body trickling in holds a connection."))
    keep_alive_s: float = field(default=75.0, metadata=_seconds("Longer than the 60 s of usual proxies."))
    ping_s: float = field(default=15.0, metadata=_seconds("Half of the shortest usual idle limit of proxies, 30 s."))
    session_idle_s: float = field(default=1800.0, metadata=_seconds("A session nobody uses is forgotten."))
    request_state_s: float = field(default=600.0, metadata=_seconds("Sealed state of a question expires."))
    cleanup_s: float = field(default=2.0, metadata=_seconds("What a cancelled tool's `finally` may still take."))

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

    max_body_bytes: int = field(default=4 * MIB, metadata=_count("bytes", "Room for a 3 MB blob in base64."))
    max_depth: int = field(default=64, metadata=_count("levels", "Deeper JSON is an attack, not an argument."))
    max_header_bytes: int = field(
        default=32 * KIB, metadata=_count("bytes", "Room for mirrored arguments and a token.", minimum=1024)
    )
    max_calls: int = field(default=256, metadata=_count("calls", "Running at once; beyond it calls queue."))
    rate: str | None = field(
        default=None,
        metadata=_about("calls/time", "Of one caller: `100/m`, `5/10s`; by key, by address without keys. Off."),
    )
    tool_rate: str | None = field(
        default=None, metadata=_about("calls/time", "Of one tool by one caller, unless `@tool(rate=...)` says. Off.")
    )
    max_queued_calls: int = field(
        default=256, metadata=_count("calls", "One more round of calls; beyond it: overloaded.", minimum=0)
    )
    max_calls_per_connection: int = field(
        default=128, metadata=_count("calls", "One WebSocket or stdio client cannot take all of max_calls.")
    )
    max_batch_items: int = field(default=64, metadata=_count("messages", "Batches exist only in 2025-03-26."))
    max_connections: int = field(default=1000, metadata=_count("connections", "Below the usual limit of open files."))
    max_connections_per_address: int = field(
        default=500, metadata=_count("connections", "One client cannot take all; trusted proxies are exempt.")
    )
    max_listen_streams: int = field(default=1000, metadata=_count("streams", "Each holds a connection open."))
    max_subscription_uris: int = field(default=256, metadata=_count("URIs", "Of one listen stream or session."))
    max_tasks: int = field(default=1000, metadata=_count("tasks", "Kept at once, ended ones too: 1 GiB at the most."))
    max_tasks_per_principal: int = field(
        default=500, metadata=_count("tasks", "One caller cannot take all of max_tasks.")
    )
    max_idempotency_keys: int = field(
        default=20_000, metadata=_count("keys", "Kept at once, each with up to 64 KiB of outcome.")
    )
    max_idempotency_keys_per_principal: int = field(
        default=10_000, metadata=_count("keys", "One caller cannot take all of max_idempotency_keys.")
    )
    max_sessions: int = field(default=1000, metadata=_count("sessions", "Each may hold all stream buffers below."))
    max_sessions_per_principal: int = field(
        default=200, metadata=_count("sessions", "One caller cannot take all of max_sessions.")
    )
    max_streams_per_session: int = field(default=32, metadata=_count("streams", "Resumable replies of one session."))
    max_stream_events: int = field(
        default=256, metadata=_count("events", "Kept for a client that resumes; the oldest goes first.")
    )
    max_stream_bytes: int = field(
        default=1 * MIB, metadata=_count("bytes", "Kept for a client that resumes; the oldest goes first.")
    )
    max_outbox_items: int = field(
        default=256, metadata=_count("messages", "Waiting for a slow reader; then progress and log are dropped.")
    )
    max_message_bytes: int = field(default=4 * MIB, metadata=_count("bytes", "A WebSocket message or stdio line."))
    max_threads: int = field(default=40, metadata=_count("threads", "For tools written as plain `def`."))
    max_abandoned_threads: int = field(
        default=20, metadata=_count("threads", "Of half the pool one caller may have three quarters stuck.")
    )
    worker_processes: int = field(
        default=1, metadata=_count("processes", "Kept warm for process tools; a cold one takes 50 ms.", minimum=0)
    )
    max_worker_processes: int = field(default=4, metadata=_count("processes", "Process tools running at once."))
    max_result_bytes: int = field(default=16 * MIB, metadata=_count("bytes", "Of an answer as JSON; more is an error."))
    page_size: int = field(default=100, metadata=_count("items", "A listing's page."))
    max_cache_bytes: int = field(default=64 * MIB, metadata=_count("bytes", "Resources read lately, in memory."))
    max_read_bytes: int = field(default=1 * MIB, metadata=_count("bytes", "Of one read_file; it can go on."))
    max_write_bytes: int = field(default=1 * MIB, metadata=_count("bytes", "Of one write_file."))
    max_list_items: int = field(default=1000, metadata=_count("items", "Of one list_files; it can go on."))
    max_text_bytes: int = field(default=16 * MIB, metadata=_count("bytes", "Of one ingested text; it is read whole."))
    max_blob_bytes: int = field(default=16 * MIB, metadata=_count("bytes", "Of one ingested file that is no text."))
    max_hits: int = field(default=100, metadata=_count("hits", "Of one search; it can go on."))


def _no_origins() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything, as read once at start.

    `origins` maps a setting's dotted name to where its value came from (a file, an environment variable, a flag); a
    name that is absent has its default. `sources` are the files that are read for it, whether or not they exist.
    """

    server: Server = field(default_factory=Server)
    auth: Auth = field(default_factory=Auth)
    files: Files = field(default_factory=Files)
    tools: Tools = field(default_factory=Tools)
    prompts: Prompts = field(default_factory=Prompts)
    data: Data = field(default_factory=Data)
    redis: Redis = field(default_factory=Redis)
    elasticsearch: Elasticsearch = field(default_factory=Elasticsearch)
    embeddings: Embeddings = field(default_factory=Embeddings)
    records: Records = field(default_factory=Records)
    timeouts: Timeouts = field(default_factory=Timeouts)
    limits: Limits = field(default_factory=Limits)
    origins: Mapping[str, str] = field(default_factory=_no_origins, repr=False, compare=False)
    sources: tuple[Path, ...] = field(default=(), repr=False, compare=False)

    @property
    def keys_file(self) -> Path:
        """Where API keys are kept."""
        return self.auth.keys_file or self.data.folder / "keys.toml"

    @property
    def secrets(self) -> tuple[Path, ...]:
        """Files and folders that no model sees and no document is made from: configuration, keys, seals, TLS, store."""
        tls = (path for path in (self.server.tls_cert, self.server.tls_key) if path is not None)
        return (self.data.folder, self.keys_file, *tls, *self.sources)
