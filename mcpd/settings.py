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
import math
import tomllib
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from mcpd.config import About, Config
from mcpd.errors import ConfigurationError
from mcpd.secret import Secret, SecretUrl
from mcpd.setting_rules import check

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
"""Every setting by dotted name, in the order of `Config`."""


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
    check(config)
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
    """Return the reference of all settings as a Markdown table, in the order of `Config`."""
    lines = ["| Setting | Default | Unit | Why |", "|---|---|---|---|"]
    for name, setting in SETTINGS.items():
        default = _shown(setting.default).replace("|", "\\|")
        shown = "" if default == "-" else f"`{default}`"
        lines.append(f"| `{name}` | {shown} | {setting.about.unit} | {setting.about.reason} |")
    return "\n".join(lines) + "\n"
