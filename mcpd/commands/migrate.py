"""`mcpd migrate status | up | down`: what they are called and take.

Going down asks first.

Called by: `cli`, which adds the command. Deliberately not: anything but click; the work is imported when it
runs (`migrating`).

Sources: surfaces "Command line".
"""

from __future__ import annotations

from pathlib import Path

import click

from mcpd.commands.options import COMMON, YES, as_json, configured, examples, options


@click.group(
    epilog=examples(
        "mcpd migrate status",
        "mcpd migrate up",
        "mcpd migrate down --to 1",
    )
)
def migrate() -> None:
    """See and change the schema version of the document store.

    Opening the store brings it up to date, so this is for looking, and for going back to an older mcpd.
    """


@migrate.command(
    "status",
    epilog=examples(
        "mcpd migrate status",
        "mcpd migrate status --data ~/.local/share/mcpd --json",
    ),
)
@options(COMMON)
@as_json
def migrate_status(config_file: Path | None, data: Path | None, *, as_json: bool) -> int:
    """Say which schema version the store has; changes nothing."""
    from mcpd.commands import migrating

    return migrating.status(configured(config_file, data), as_json=as_json)


_TO = click.option("--to", "target", type=int, metavar="N", help="Version to go to.")


@migrate.command(
    "up",
    epilog=examples(
        "mcpd migrate up",
        "mcpd migrate up --to 2",
    ),
)
@_TO
@options(COMMON)
@as_json
def migrate_up(config_file: Path | None, data: Path | None, target: int | None, *, as_json: bool) -> int:
    """Bring the store to a newer schema, the newest unless told otherwise."""
    from mcpd.commands import migrating

    return migrating.up(target, configured(config_file, data), as_json=as_json)


@migrate.command(
    "down",
    epilog=examples(
        "mcpd migrate down",
        "mcpd migrate down --to 1 --yes",
    ),
)
@_TO
@YES
@options(COMMON)
@as_json
def migrate_down(config_file: Path | None, data: Path | None, target: int | None, sure: bool, as_json: bool) -> int:
    """Bring the store to an older schema, one version unless told otherwise.

    What only the newer schema has is lost.
    """
    from mcpd.commands import migrating

    return migrating.down(target, configured(config_file, data), sure=sure, as_json=as_json)
