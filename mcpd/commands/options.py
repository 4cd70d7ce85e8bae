"""What the commands have in common: flags, exit codes, examples in the help, JSON output, reading the configuration.

Called by: the files of the commands. Calls `settings`, when a command runs. Deliberately not: any command.

Laws: importing this loads click and nothing else, so that `mcpd --help` is quick; exit codes are 0 done, 1 something
failed, 2 wrong usage or configuration, 130 interrupted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from mcpd.config import Config
from mcpd.errors import InvalidParams

Command = TypeVar("Command", bound=Callable[..., Any])

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130

PATH = click.Path(path_type=Path)
COMMON = (
    click.option("--config", "config_file", type=PATH, help="Configuration file.  [default: mcpd.toml, if there]"),
    click.option("--data", type=PATH, help="Data folder: keys, seal key, embedded store.  [default: .mcpd]"),
)

SERVED = (
    click.option("--tools", multiple=True, metavar="FILE_OR_MODULE", help="Tools to serve; may be repeated."),
    click.option("--files", type=PATH, metavar="DIR", help="Folder of the file tools.  [default: working folder]"),
    click.option("--no-files", is_flag=True, help="Serve no file tools."),
    click.option("--log-level", metavar="L", help="debug, info, warning or error.  [default: info]"),
)

FILTER = click.option(
    "--filter", "filters", multiple=True, metavar="K=V",
    help="Only documents that fit: tags=x, metadata.year>=1960, uri=docs:///notes/*; may be repeated.",
)  # fmt: skip
YES = click.option("--yes", "sure", is_flag=True, help="Do not ask.")


def options(*groups: tuple[Callable[[Command], Command], ...]) -> Callable[[Command], Command]:
    """Add groups of options to a command, in this order."""

    def add(command: Command) -> Command:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return add


def as_json(command: Command) -> Command:
    """Add the flag `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def print_json(value: Any) -> None:
    """Print a result for programs."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def examples(*lines: str) -> str:
    """Return the end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def load(config_file: Path | None, flags: dict[str, object]) -> Config:
    """Return the configuration with these flags (dotted names) on top. Raises: ConfigurationError."""
    from mcpd import settings

    return settings.load(config_file, os.environ, flags)


def flags(tools: tuple[str, ...] = (), *, no_files: bool = False, **given: object) -> dict[str, object]:
    """Return the settings (dotted names) that the flags of `serve`, `stdio` and `check` stand for."""
    if no_files and given.get("files") is not None:
        raise click.UsageError("--files and --no-files contradict each other")
    names = {"files": "files.root", "data": "data.folder"}
    dotted = {names.get(flag, f"server.{flag}"): value for flag, value in given.items()}
    return {**dotted, "tools.modules": tools or None, "files.enabled": False if no_files else None}


def configured(config_file: Path | None, data: Path | None) -> Config:
    """Return the configuration of a command that takes `COMMON`. Raises: ConfigurationError."""
    return load(config_file, {"data.folder": data})


@contextmanager
def usage() -> Iterator[None]:
    """Let the mistakes of whoever wrote the command line end as wrong usage."""
    from mcpd.ingest.sources import BadSource

    try:
        yield
    except (InvalidParams, BadSource) as error:
        raise click.UsageError(str(error)) from error
