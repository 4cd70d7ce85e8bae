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

from mcpd.config.about import MIB, About, about, count, seconds
from mcpd.config.bounds import Limits, Timeouts
from mcpd.secret import Secret, SecretUrl

__all__ = [
    "LOG_LEVELS",
    "MAX_WORKERS",
    "RECORDED_ARGUMENTS",
    "TOOL_ERRORS",
    "About",
    "Auth",
    "Config",
    "Data",
    "Elasticsearch",
    "Embeddings",
    "Files",
    "Limits",
    "Prompts",
    "Records",
    "Redis",
    "Server",
    "Timeouts",
    "Tools",
]

TOOL_ERRORS = ("shown", "masked")
MAX_WORKERS = 64
LOG_LEVELS = ("debug", "info", "warning", "error")
RECORDED_ARGUMENTS = ("digest", "redacted", "full")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Who the server says it is, where it listens and whom it listens to."""

    name: str = field(default="mcpd", metadata=about("text", "Clients show it and key their settings by it."))
    title: str | None = field(default=None, metadata=about("text", "Shown by clients instead of the name."))
    instructions: str | None = field(
        default=None, metadata=about("text", "Tells a model how to use this server; none is better than a guess.")
    )
    host: str = field(default="127.0.0.1", metadata=about("address", "Loopback: nobody else can reach it."))
    port: int = field(default=8000, metadata=about("TCP port", "0 takes a free one.", minimum=0, maximum=65535))
    bind: str | None = field(
        default=None, metadata=about("unix:PATH or fd://N", "Replaces host and port, for a proxy on this machine.")
    )
    tls_cert: Path | None = field(default=None, metadata=about("PEM file", "Needs tls_key; without it: plain HTTP."))
    tls_key: Path | None = field(default=None, metadata=about("PEM file", "Needs tls_cert."))
    http2: bool = field(
        default=False, metadata=about("true or false", "Offers HTTP/2 on TLS; it is less guarded than HTTP/1.1.")
    )
    allowed_hosts: tuple[str, ...] = field(
        default=(), metadata=about("host[:port]", "Besides loopback names; stops DNS rebinding. `*` allows any.")
    )
    allowed_origins: tuple[str, ...] = field(
        default=(), metadata=about("scheme://host[:port]", "Web pages that may call, besides the server's own.")
    )
    public_url: str | None = field(
        default=None, metadata=about("URL", "The address clients use behind a proxy; its host and origin are allowed.")
    )
    trusted_proxies: tuple[str, ...] = field(
        default=(),
        metadata=about("address, network or unix", "Only these name the client, in X-Forwarded-For or Forwarded."),
    )
    metrics_bind: str | None = field(
        default=None, metadata=about("host:port", "Moves /metrics off the main listener, where it needs a scope.")
    )
    listing_ttl_s: float = field(
        default=60.0, metadata=about("seconds", "Clients keep listings so long (`ttlMs`).", minimum=0, maximum=86400)
    )
    change_notices: bool = field(
        default=True,
        metadata=about("true or false", "false: no `listChanged` and no `subscribe` offered."),
    )
    insecure: bool = field(
        default=False, metadata=about("true or false", "Only true starts a non-loopback server without keys.")
    )
    workers: int = field(
        default=1,
        metadata=about("processes", "One uses one core; more divide the limits.", minimum=1, maximum=MAX_WORKERS),
    )
    log_level: str = field(default="info", metadata=about("level", "One line per request.", choices=LOG_LEVELS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """How callers prove who they are."""

    keys_file: Path | None = field(
        default=None, metadata=about("TOML file", "Default: keys.toml in the data folder; hashes only.")
    )
    api_key: Secret | None = field(
        default=None, metadata=about("secret", "One key with every scope, for set-ups without a keys file.")
    )
    seal_keys: Secret | None = field(
        default=None,
        metadata=about("secrets", "`id:secret,...`: the first seals, all open. Default: seal.key in the data folder."),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The folder that the file tools work in."""

    enabled: bool = field(default=True, metadata=about("true or false", "`--no-files` serves none of the file tools."))
    root: Path | None = field(
        default=None, metadata=about("folder", "Default: the working folder, unless that is / or the home folder.")
    )
    write: bool = field(default=False, metadata=about("true or false", "A model changes files only when told it may."))
    hidden: bool = field(
        default=False, metadata=about("true or false", "Names with a leading dot often hold secrets and are unseen.")
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
        default=(), metadata=about("files or modules", "Loaded in this order, after the built-in tools.")
    )
    errors: str = field(
        default="shown",
        metadata=about(
            "shown or masked",
            "A model reads `Type: message`; masked: see the log.",
            choices=TOOL_ERRORS,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Prompts that are files."""

    folder: Path | None = field(
        default=None, metadata=about("folder", "Prompts in JSON and Markdown, reread when they change.")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What the server keeps."""

    folder: Path = field(
        default=Path(".mcpd"), metadata=about("folder", "Keys, seal key and embedded store; hidden from file tools.")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Redis:
    """What several processes share, besides the data folder; without a URL each keeps it to itself."""

    url: SecretUrl | None = field(
        default=None, metadata=about("URL", "redis://, rediss:// (TLS) or unix://; Redis 7.0, Valkey 8.0 or newer.")
    )
    prefix: str = field(
        default="mcpd:",
        metadata=about("text", "Begins every key and channel: two servers that share nothing need two."),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Elasticsearch:
    """Where the documents are, for servers on several machines; without a URL they are in the data folder."""

    url: SecretUrl | None = field(
        default=None,
        metadata=about("URL", "http:// or https:// of a node, of several with commas; Elasticsearch 8.12 or newer."),
    )
    api_key: Secret | None = field(default=None, metadata=about("secret", "As Elasticsearch gives it, encoded."))
    user: str | None = field(default=None, metadata=about("name", "Needs password; instead of api_key."))
    password: Secret | None = field(default=None, metadata=about("secret", "Of user."))
    ca_file: Path | None = field(
        default=None, metadata=about("file", "PEM of the authorities to trust, instead of the machine's.")
    )
    fingerprint: str | None = field(
        default=None, metadata=about("hex", "SHA-256 of a certificate to trust, as Elasticsearch prints it.")
    )
    index_prefix: str = field(
        default="mcpd",
        metadata=about("text", "Begins the name of every index: two servers that share nothing need two."),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """Where the vectors of semantic search come from: an endpoint, or the built-in ones, which are lexical."""

    url: str | None = field(
        default=None, metadata=about("URL", "An OpenAI-compatible endpoint (.../v1); without it: built-in vectors.")
    )
    model: str | None = field(default=None, metadata=about("name", "As the endpoint knows it; needs url."))
    dims: int | None = field(
        default=None,
        metadata=about(
            "dimensions", "Vectors of another size are refused; default: the first.", minimum=1, maximum=8192
        ),
    )
    api_key: Secret | None = field(default=None, metadata=about("secret", "Sent to the endpoint as a bearer token."))
    max_batch_items: int = field(default=32, metadata=count("texts", "In one request; what usual endpoints take."))
    reply_s: float = field(default=60.0, metadata=seconds("A batch on a busy machine without an accelerator."))
    patience_s: float = field(
        default=3.0, metadata=seconds("A hybrid search goes on without vectors when they take longer.")
    )
    max_cache_bytes: int = field(
        default=32 * MIB, metadata=count("bytes", "Vectors remembered: 20,000 of 384 dimensions.", minimum=0)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What is kept of calls that have ended."""

    enabled: bool = field(
        default=True, metadata=about("true or false", "Who called what is asked when it is too late to switch it on.")
    )
    arguments: str = field(
        default="digest",
        metadata=about(
            "digest, redacted or full",
            "Arguments may be secret: a digest; their keys with types and sizes; or all, to 4 KiB.",
            choices=RECORDED_ARGUMENTS,
        ),
    )
    keep_s: float = field(
        default=86_400.0 * 30,
        metadata=about("seconds", "A month to notice and look into something.", minimum=1, maximum=86_400 * 3660),
    )
    max_items: int = field(
        default=250_000, metadata=count("records", "About 100 MB; the oldest go first. Refusals: a tenth of it more.")
    )


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
