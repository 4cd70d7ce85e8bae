"""What `mcpd migrate` does: bring the store's schema to another version, or say which one it has.

Called by: `commands.migrate`. Calls the `Schema` that `storage.open` gives. Deliberately not: the steps themselves, and
no step happens only here: opening the store migrates it up as well. `status` changes nothing and makes no file.

Sources: surfaces "Command line" (migrate).
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import click

from mcpd.commands import stores, terminal
from mcpd.commands.options import FAILED, print_json
from mcpd.config import Config
from mcpd.storage.documents import SchemaState
from mcpd.storage.open import schema_of


def status(config: Config, *, as_json: bool) -> int:
    """Print the schema's version and the one that this mcpd works with. Raises: StorageError."""
    now = stores.run(schema_of(config).status)
    if as_json:
        print_json(_json(now) | {"exists": now.exists})
    elif not now.exists:
        terminal.echo(f"{now.place} does not exist yet; the first use makes it, at schema {now.latest}")
    else:
        terminal.echo(f"{now.place} has schema {now.version}, this mcpd works with {now.latest}: {_advice(now)}")
    return 0


def _json(state: SchemaState) -> dict[str, Any]:
    return {"store": state.store, "path": state.place, "version": state.version, "latest": state.latest}


def _advice(state: SchemaState) -> str:
    if state.version == state.latest:
        return "nothing to do"
    return "run mcpd migrate up" if state.version < state.latest else "a newer mcpd wrote it"


def _tell(before: SchemaState, after: SchemaState, *, as_json: bool) -> int:
    if as_json:
        print_json(_json(after) | {"before": before.version})
    else:
        terminal.echo(f"{after.place}: schema {before.version} -> {after.version}")
    return 0


def up(target: int | None, config: Config, *, as_json: bool) -> int:
    """Migrate up, to the newest version unless told otherwise. Raises: StorageError, click.UsageError."""
    schema = schema_of(config)
    before = stores.run(schema.status)
    if target is not None and target < before.version:
        raise click.UsageError(f"the schema has version {before.version}: {target} is not up")
    return _tell(before, stores.run(partial(schema.up, target)), as_json=as_json)


def down(target: int | None, config: Config, *, sure: bool, as_json: bool) -> int:
    """Migrate down, by one version unless told otherwise, after asking. Raises: StorageError, click.UsageError."""
    schema = schema_of(config)
    before = stores.run(schema.status)
    target = before.version - 1 if target is None else target
    if target >= before.version:
        raise click.UsageError(f"the schema has version {before.version}: {target} is not down")
    if not sure and not _agreed(before.version, target):
        terminal.echo("Nothing was changed", err=True)
        return FAILED
    return _tell(before, stores.run(partial(schema.down, target)), as_json=as_json)


def _agreed(before: int, after: int) -> bool:
    """Raises: click.UsageError where nobody can answer."""
    text = f"Going from schema {before} to {after} loses what only the newer one has"
    if not sys.stdin.isatty():
        raise click.UsageError(f"{text}: say so with --yes")
    return click.confirm(f"{text}. Go?", err=True)
