"""What `mcpd migrate` does: bring the store's schema to another version, or say which one it has.

Called by: `commands.migrate`. Calls `storage.sqlite.documents`. Deliberately not: the steps themselves, and no step
happens only here: opening the store migrates it up as well. `status` changes nothing and makes no file.

Sources: surfaces "Command line" (migrate).
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from mcpd.commands import stores, terminal
from mcpd.commands.options import FAILED, print_json
from mcpd.config import Config
from mcpd.storage.sqlite.documents import FILE_NAME, migrate, open_database, schema_version
from mcpd.storage.sqlite.schema import VERSION


def status(config: Config, *, as_json: bool) -> int:
    """Print the schema's version and the one that this mcpd works with. Raises: StorageError."""
    path = config.data.folder / FILE_NAME
    version = stores.run(partial(_version, config.data.folder)) if path.exists() else 0
    if as_json:
        print_json(_state(path, version) | {"exists": path.exists()})
    elif not path.exists():
        terminal.echo(f"{path} does not exist yet; the first use makes it, at schema {VERSION}")
    else:
        terminal.echo(f"{path} has schema {version}, this mcpd works with {VERSION}: {_advice(version)}")
    return 0


async def _version(folder: Path) -> int:
    async with open_database(folder) as database:
        return await schema_version(database)


def _state(path: Path, version: int) -> dict[str, Any]:
    return {"store": "sqlite", "path": str(path), "version": version, "latest": VERSION}


def _advice(version: int) -> str:
    if version == VERSION:
        return "nothing to do"
    return "run mcpd migrate up" if version < VERSION else "a newer mcpd wrote it"


def _change(before: int, target: int, config: Config, *, as_json: bool) -> int:
    stores.run(partial(_migrate, target, config.data.folder))
    path = config.data.folder / FILE_NAME
    if as_json:
        print_json(_state(path, target) | {"before": before})
    else:
        terminal.echo(f"{path}: schema {before} -> {target}")
    return 0


def up(target: int | None, config: Config, *, as_json: bool) -> int:
    """Migrate up, to the newest version unless told otherwise. Raises: StorageError, click.UsageError."""
    target = VERSION if target is None else target
    version = stores.run(partial(_version, config.data.folder))
    if target < version:
        raise click.UsageError(f"the schema has version {version}: {target} is not up")
    return _change(version, target, config, as_json=as_json)


def down(target: int | None, config: Config, *, sure: bool, as_json: bool) -> int:
    """Migrate down, by one version unless told otherwise, after asking. Raises: StorageError, click.UsageError."""
    version = stores.run(partial(_version, config.data.folder))
    target = version - 1 if target is None else target
    if target >= version:
        raise click.UsageError(f"the schema has version {version}: {target} is not down")
    if not sure and not _agreed(version, target):
        terminal.echo("Nothing was changed", err=True)
        return FAILED
    return _change(version, target, config, as_json=as_json)


async def _migrate(target: int, folder: Path) -> int:
    async with open_database(folder) as database:
        return await migrate(database, target)


def _agreed(before: int, after: int) -> bool:
    """Raises: click.UsageError where nobody can answer."""
    text = f"Going from schema {before} to {after} loses what only the newer one has"
    if not sys.stdin.isatty():
        raise click.UsageError(f"{text}: say so with --yes")
    return click.confirm(f"{text}. Go?", err=True)
