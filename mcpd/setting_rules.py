"""What settings have to be besides of the right type and within their bounds: alone, and together.

Called by: `settings`, with the configuration as it has been read. Pure. Deliberately not: what only a look at the
machine can tell (`mcpd check`), or what listening needs (`gateway.access.startup_check`).

Laws: a message names the setting and says what would do; no secret is in it.

Sources: surfaces "Configuration".
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from mcpd.config import Config, Elasticsearch
from mcpd.errors import ConfigurationError
from mcpd.rates import read_rate

_MOST_PORT = 65_535
_REDIS_SCHEMES = ("redis://", "rediss://", "unix://", "redis+unix://")
_INDEX_PREFIX = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
"""Of Elasticsearch's rules for index names, what needs no thought."""

_PREFIX = re.compile(r"[A-Za-z0-9._:-]{1,64}")
"""Neither braces, which Cluster takes for a tag, nor what the patterns of access rules are written in."""


def check(config: Config) -> None:
    """Refuse what cannot work. Raises: ConfigurationError."""
    server, timeouts, limits = config.server, config.timeouts, config.limits
    rules = (
        (bool(server.tls_cert) == bool(server.tls_key), "server.tls_cert and server.tls_key must be given together"),
        (_is_bind(server.bind), "server.bind must be unix:PATH or fd://N"),
        (server.host != "", "server.host must not be empty; 0.0.0.0 means every address"),
        (server.host[:1] != "[", "server.host must be an IPv6 address without brackets"),
        (_is_host(server.host), "server.host must be an address or the name of a host"),
        (_is_place(server.metrics_bind), "server.metrics_bind must be HOST:PORT, an IPv6 address in brackets"),
        (_is_url(server.public_url), "server.public_url must begin with http:// or https://, then a host"),
        (_is_url(config.embeddings.url), "embeddings.url must begin with http:// or https://, then a host"),
        (
            bool(config.embeddings.url) == bool(config.embeddings.model),
            "embeddings.url and embeddings.model must be given together",
        ),
        (
            config.redis.url is None or config.redis.url.reveal().startswith(_REDIS_SCHEMES),
            "redis.url must begin with redis://, rediss:// or unix://",
        ),
        (
            _PREFIX.fullmatch(config.redis.prefix) is not None,
            "redis.prefix must be 1 to 64 of A-Z a-z 0-9 . _ : and -",
        ),
        *_elasticsearch_rules(config.elasticsearch),
        (timeouts.call_s <= timeouts.call_max_s, "timeouts.call_s must not exceed timeouts.call_max_s"),
        (
            limits.max_abandoned_threads <= limits.max_threads,
            "limits.max_abandoned_threads must not exceed limits.max_threads",
        ),
        (
            limits.worker_processes <= limits.max_worker_processes,
            "limits.worker_processes must not exceed limits.max_worker_processes",
        ),
    )
    for holds, message in rules:
        if not holds:
            raise ConfigurationError(message)
    for name, rate in (("limits.rate", limits.rate), ("limits.tool_rate", limits.tool_rate)):
        try:
            read_rate(rate or "1/s")
        except ValueError as error:
            raise ConfigurationError(f"{name} {error}") from None


def _elasticsearch_rules(settings: Elasticsearch) -> tuple[tuple[bool, str], ...]:
    urls = [] if settings.url is None else [url.strip() for url in settings.url.reveal().split(",")]
    return (
        (
            all(url.startswith(("http://", "https://")) for url in urls),
            "elasticsearch.url must begin with http:// or https://, each one of several too",
        ),
        (
            bool(settings.user) == bool(settings.password),
            "elasticsearch.user and elasticsearch.password must be given together",
        ),
        (
            settings.api_key is None or settings.user is None,
            "elasticsearch.api_key and elasticsearch.user are two ways to log in: give one",
        ),
        (
            settings.ca_file is None or settings.fingerprint is None,
            "elasticsearch.ca_file and elasticsearch.fingerprint are two ways to trust: give one",
        ),
        (
            _INDEX_PREFIX.fullmatch(settings.index_prefix) is not None,
            "elasticsearch.index_prefix must be 1 to 64 of a-z 0-9 _ and -, beginning with a letter or digit",
        ),
    )


def _is_bind(bind: str | None) -> bool:
    if bind is None:
        return True
    return (bind.startswith("unix:") and len(bind) > 5) or (bind.startswith("fd://") and bind[5:].isdecimal())


def _is_url(url: str | None) -> bool:
    if url is None:
        return True
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and parts.port != 0 and _is_host(parts.hostname or "")
    except ValueError:
        return False


def _is_place(place: str | None) -> bool:
    if place is None:
        return True
    host, _, port = place.rpartition(":")
    sound = _is_ipv6(host[1:-1]) if host[:1] + host[-1:] == "[]" else _is_host(host) and ":" not in host
    return sound and port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= _MOST_PORT


def _is_ipv6(text: str) -> bool:
    try:
        return bool(ipaddress.IPv6Address(text))
    except ValueError:
        return False


def _is_host(host: str) -> bool:
    """True for what can be looked up: names have rules, and looking up what breaks them raises no OSError."""
    try:
        return bool(host.encode("idna"))
    except UnicodeError:
        return False
