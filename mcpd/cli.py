"""The command line: `mcpd serve | stdio | call | check | keys`, and the commands on what is stored.

Each command family has a file in `commands` that says what it is called and takes; here they are put together, and each
end of a command becomes an exit code. What a command needs is imported when it runs, so that `mcpd --help` is quick and
`mcpd call` loads no server.

Called by: `mcpd.__main__`, the console script. Deliberately not: any command.

Laws: exit codes are 0 done, 1 something failed, 2 wrong usage or configuration, 130 interrupted; what went wrong is one
line on stderr that says what to do; results go to stdout, as JSON with `--json`.

Sources: surfaces "Command line", "Configuration", "Access".
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import click

from mcpd.commands.call import call
from mcpd.commands.check import check
from mcpd.commands.documents import documents
from mcpd.commands.ingest import ingest
from mcpd.commands.keys import keys
from mcpd.commands.migrate import migrate
from mcpd.commands.options import FAILED, INTERRUPTED, WRONG_USAGE, examples
from mcpd.commands.records import records
from mcpd.commands.search import search
from mcpd.commands.serve import serve, stdio, worker
from mcpd.descriptors import ensure_open
from mcpd.errors import ConfigurationError, McpdError, WireError


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    _fill_standard_descriptors()
    sys.exit(run(arguments))


def _fill_standard_descriptors() -> None:
    """Open what the caller has closed of 0, 1 and 2: else a store gets that number, and log lines go into it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    ensure_open()
    try:
        code = cli.main(args=arguments, prog_name="mcpd", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            click.echo(f"mcpd: {error.filename or 'the output'}: {error.strerror}", err=True)
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except McpdError as error:
        from mcpd.commands.terminal import clean

        told = error.detail or str(error) if isinstance(error, WireError) else str(error)
        click.echo(f"mcpd: {clean(told)}", err=True)
        return WRONG_USAGE if isinstance(error, ConfigurationError) else FAILED
    return code if isinstance(code, int) else 0


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        import mcpd

        click.echo(f"mcpd {mcpd.__version__}")
        context.exit()


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog=examples(
        "mcpd serve                                  serve the working folder on http://127.0.0.1:8000",
        "mcpd serve --tools tools.py --files ~/docs  serve your own tools, and another folder",
        "mcpd call list_files path=. recursive=true  call a tool on a running server",
        "mcpd check                                  show the configuration and what is wrong with it",
    ),
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print the version."
)
def cli() -> None:
    """An MCP server: tools, resources and prompts for AI agents, over HTTP, WebSocket and stdio.

    Exit codes: 0 done, 1 something failed, 2 wrong usage, 130 interrupted.
    """


for _command in (serve, worker, stdio, call, check, keys, ingest, documents, search, records, migrate):
    cli.add_command(_command)
