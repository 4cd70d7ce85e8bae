"""What the commands have in common: flags, exit codes, examples in the help, JSON output, reading the configuration.

Called by: `cli` and `declarations`. Calls `settings`, when a command runs. Deliberately not: any command.

Laws: importing this loads click and nothing else, so that `mcpd --help` is quick; exit codes are 0 done, 1 something
failed, 2 wrong usage or configuration, 130 interrupted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from mcpd.config import Config

Command = TypeVar("Command", bound=Callable[..., Any])

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130

PATH = click.Path(path_type=Path)
COMMON = (
    click.option("--config", "config_file", type=PATH, help="Configuration file.  [default: mcpd.toml, if there]"),
    click.option("--data", type=PATH, help="Data folder: keys, seal key, embedded store.  [default: .mcpd]"),
)


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
