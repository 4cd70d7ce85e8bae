"""Loading of the configuration: `mcpd.toml`, then the environment, then flags, read once.

Later sources win. The environment names a setting `MCPD_SECTION__KEY` (`MCPD_SERVER__PORT`); `PORT`, `LOG_LEVEL`,
`MCPD_DATA`, `MCPD_API_KEY`, `MCPD_SEAL_KEYS` and `REDIS_URL` are short names for six of them, and the long name wins
over the short one.
Variables without the double underscore are not ours: service discovery sets `MCPD_PORT` and the like. An empty variable
counts as absent. Lists are comma-separated there. Relative paths in the file mean the file's folder, elsewhere the
working folder.

Called by: the command line and the composition root. Calls `config` for the fields. Deliberately not: a reader of the
process's own environment; it is an argument.

Laws: an unknown name is an error that names the nearest known one; an error says source, setting, and what would do;
a secret appears in no message.

Sources: surfaces "Configuration"; TOML 1.0.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import math
import re
import tomllib
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from mcpd.config import About, Config, Elasticsearch
from mcpd.errors import ConfigurationError
from mcpd.rates import read_rate
from mcpd.secret import Secret, SecretUrl

DEFAULT_FILE = Path("mcpd.toml")
SHORT_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "PORT": "server.port",
        "LOG_LEVEL": "server.log_level",
        "MCPD_DATA": "data.folder",
        "MCPD_API_KEY": "auth.api_key",
        "MCPD_SEAL_KEYS": "auth.seal_keys",
        "REDIS_URL": "redis.url",
        "ELASTICSEARCH_URL": "elasticsearch.url",
        "ES_URL": "elasticsearch.url",
    }
)
_MOST_PORT = 65_535
_REDIS_SCHEMES = ("redis://", "rediss://", "unix://", "redis+unix://")
_INDEX_PREFIX = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
"""Of Elasticsearch's rules for index names, what needs no thought."""

_PREFIX = re.compile(r"[A-Za-z0-9._:-]{1,64}")
"""Neither braces, which Cluster takes for a tag, nor what the patterns of access rules are written in."""

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


class Setting(NamedTuple):
    """One setting: where it lives, its Python type without None, whether None is allowed, default and notes."""

    section: str
    key: str
    kind: Any
    optional: bool
    default: Any
    about: About

    @property
    def name(self) -> str:
        """Dotted name, as in messages and `Config.origins`."""
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str:
        """Name in the environment."""
        return f"MCPD_{self.section}__{self.key}".upper()


class Effective(NamedTuple):
    """A setting as it is in force, for `mcpd check`. `value` is text with secrets masked."""

    name: str
    value: str
    origin: str


class _Given(NamedTuple):
    """A raw value from one source. `base` is the folder that relative paths mean, None for the working folder."""

    value: object
    origin: str
    base: Path | None


def _sections() -> Iterator[tuple[str, type]]:
    for name, hint in typing.get_type_hints(Config).items():
        if dataclasses.is_dataclass(hint):
            yield name, typing.cast(type, hint)


def _settings_of(section: str, cls: type) -> Iterator[Setting]:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kinds = [kind for kind in typing.get_args(hints[field.name]) if kind is not type(None)]
        optional = type(None) in typing.get_args(hints[field.name])
        kind = kinds[0] if optional else hints[field.name]
        yield Setting(section, field.name, kind, optional, field.default, field.metadata["about"])


SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {setting.name: setting for name, cls in _sections() for setting in _settings_of(name, cls)}
)
"""Every setting by dotted name, in the order of `config.py`."""


def load(path: Path | None, env: Mapping[str, str], flags: Mapping[str, object]) -> Config:
    """Return the effective configuration.

    `path` is the TOML file; None means `mcpd.toml` in the working folder if there is one. `flags` maps dotted names to
    values already typed or text, None for a flag that was not given.

    Raises: ConfigurationError for an unreadable file, an unknown name, a value of the wrong type or out of bounds, or
    two settings that contradict each other.
    """
    given = {**_from_file(path), **_from_environment(env), **_from_flags(flags)}
    values: dict[str, dict[str, Any]] = {}
    for name, item in given.items():
        setting = SETTINGS[name]
        values.setdefault(setting.section, {})[setting.key] = _convert(setting, item)
    sections = {name: cls(**values.get(name, {})) for name, cls in _sections()}
    origins = MappingProxyType({name: item.origin for name, item in given.items()})
    config = Config(**sections, origins=origins, sources=tuple({path or DEFAULT_FILE, DEFAULT_FILE}))
    _check_pairs(config)
    return config


def _from_file(path: Path | None) -> dict[str, _Given]:
    if path is None and not DEFAULT_FILE.is_file():
        return {}
    path = path or DEFAULT_FILE
    given: dict[str, _Given] = {}
    for section, content in _read_toml(path).items():
        table = {"modules": content} if section == "tools" and isinstance(content, list) else content
        if not isinstance(table, dict):
            raise _unknown(section, str(path))
        for key, value in table.items():
            name = _known(f"{section}.{key}", str(path))
            given[name] = _Given(value, str(path), path.parent)
    return given


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not a TOML file: {error}") from error


def _from_environment(env: Mapping[str, str]) -> dict[str, _Given]:
    given: dict[str, _Given] = {}
    for variable, name in SHORT_NAMES.items():
        if env.get(variable):
            given[name] = _Given(env[variable], variable, None)
    for variable, value in env.items():
        if variable.startswith("MCPD_") and "__" in variable and value:
            dotted = variable.removeprefix("MCPD_").replace("__", ".", 1).lower()
            given[_known(dotted, variable)] = _Given(value, variable, None)
    return given


def _from_flags(flags: Mapping[str, object]) -> dict[str, _Given]:
    origin = "command line"
    return {_known(name, origin): _Given(value, origin, None) for name, value in flags.items() if value is not None}


def _known(name: str, origin: str) -> str:
    if name not in SETTINGS:
        raise _unknown(name, origin)
    return name


def _unknown(name: str, origin: str) -> ConfigurationError:
    nearest = difflib.get_close_matches(name, SETTINGS, n=1, cutoff=0.0)[0]
    shown = SETTINGS[nearest].variable if origin.startswith("MCPD_") else nearest
    return ConfigurationError(f"{origin}: there is no setting {name!r}; the nearest is {shown}")


def _convert(setting: Setting, item: _Given) -> Any:
    if item.value == "" and setting.optional:
        return None
    try:
        value = _CONVERTERS[setting.kind](item.value, item.base)
        _check_bounds(setting, value)
    except ValueError as error:
        shown = "***" if setting.kind in (Secret, SecretUrl) else repr(item.value)
        raise ConfigurationError(f"{item.origin}: {setting.name} = {shown}: {error}") from None
    return value


def _check_bounds(setting: Setting, value: Any) -> None:
    about = setting.about
    if about.minimum is not None and value < about.minimum:
        raise _Unfit(f"must be at least {about.minimum:g} ({about.unit})")
    if about.maximum is not None and value > about.maximum:
        raise _Unfit(f"must be at most {about.maximum:g} ({about.unit})")
    if about.choices and value not in about.choices:
        raise _Unfit(f"must be one of {', '.join(about.choices)}")


class _Unfit(ValueError):
    """A value that a setting cannot take; the text says what would do."""


def _text(value: object, _base: Path | None) -> str:
    if not isinstance(value, str):
        raise _Unfit("must be text")
    return value


def _integer(value: object, _base: Path | None) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().removeprefix("-").isdecimal():
        return int(value)
    raise _Unfit("must be a whole number")


def _number(value: object, _base: Path | None) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise _Unfit("must be a number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise _Unfit("must be a number") from None
    if not math.isfinite(number):
        raise _Unfit("must be a finite number")
    return number


def _truth(value: object, _base: Path | None) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    raise _Unfit("must be true or false")


def _path(value: object, base: Path | None) -> Path:
    if isinstance(value, str):
        value = Path(value)
    if not isinstance(value, Path):
        raise _Unfit("must be a path")
    value = value.expanduser()
    return value if base is None else base / value


def _list(value: object, base: Path | None) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    if not isinstance(value, (list, tuple)) or not all(isinstance(part, str) for part in value):
        raise _Unfit("must be a list of texts")
    return tuple(_rebase(part, base) for part in value if part)


def _rebase(part: str, base: Path | None) -> str:
    return str(base / part) if base is not None and part.endswith(".py") else part


def _secret(value: object, base: Path | None) -> Secret:
    return Secret(_text(value, base))


def _secret_url(value: object, base: Path | None) -> SecretUrl:
    return SecretUrl(_text(value, base))


_CONVERTERS: Mapping[Any, Callable[[object, Path | None], Any]] = {
    str: _text,
    int: _integer,
    float: _number,
    bool: _truth,
    Path: _path,
    tuple[str, ...]: _list,
    Secret: _secret,
    SecretUrl: _secret_url,
}


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


def _check_pairs(config: Config) -> None:
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


def describe(config: Config) -> list[Effective]:
    """Return every setting as it is in force, with its origin (`default` when nobody set it)."""
    rows = []
    for name, setting in SETTINGS.items():
        value = getattr(getattr(config, setting.section), setting.key)
        rows.append(Effective(name, _shown(value), config.origins.get(name, "default")))
    return rows


def _shown(value: object) -> str:
    if value is None or value == ():
        return "-"
    if isinstance(value, tuple):
        return ", ".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def reference_table() -> str:
    """Return the reference of all settings as a Markdown table, in the order of `config.py`."""
    lines = ["| Setting | Default | Unit | Why |", "|---|---|---|---|"]
    for name, setting in SETTINGS.items():
        default = _shown(setting.default).replace("|", "\\|")
        shown = "" if default == "-" else f"`{default}`"
        lines.append(f"| `{name}` | {shown} | {setting.about.unit} | {setting.about.reason} |")
    return "\n".join(lines) + "\n"
