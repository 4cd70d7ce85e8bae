"""`mcpd serve` and `mcpd stdio`: what they are called and take.

Both turn their flags into the configuration and run the server in this process, or, with `--workers`, its supervisor.

Called by: `cli`, which adds the command. Deliberately not: anything but click; the work is imported when it
runs (`app`, `supervisor`).

Sources: surfaces "Command line".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mcpd.commands.options import COMMON, PATH, SERVED, examples, flags, load, options


@click.command(
    epilog=examples(
        "mcpd serve",
        "mcpd serve --port 9000 --tools weather.py --tools my_package.tools",
        "mcpd serve --files ~/notes --data ~/.local/share/mcpd",
        "mcpd serve --bind unix:/run/mcpd.sock",
        "mcpd serve --workers 4",
        "mcpd serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem     (after: mcpd keys new NAME)",
    )
)
@options(COMMON)
@click.option("--host", metavar="ADDRESS", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", metavar="N", help="Port to listen on; 0 takes a free one.  [default: 8000]")
@click.option("--bind", metavar="unix:PATH", help="Listen on a Unix socket instead.")
@click.option("--tls-cert", type=PATH, metavar="F", help="Certificate (PEM); needs --tls-key.")
@click.option("--tls-key", type=PATH, metavar="F", help="Private key (PEM).")
@click.option("--workers", metavar="N", help="Processes that serve: more use more cores.  [default: 1]")
@options(SERVED)
@click.option("--insecure", is_flag=True, help="Serve beyond this machine without keys.")
def serve(config_file: Path | None, *, insecure: bool, tools: tuple[str, ...], **given: Any) -> int:
    """Serve MCP over HTTP and WebSocket.

    The first Ctrl-C lets running calls finish, the second ends at once.
    """
    config = load(config_file, flags(tools, **given) | {"server.insecure": insecure or None})
    if config.server.workers > 1:
        import mcpd.supervisor

        return mcpd.supervisor.supervise(config)
    import mcpd.app

    return mcpd.app.serve(config)


@click.command(hidden=True)
@click.argument("descriptor", type=int)
def worker(descriptor: int) -> int:
    """Be one of the processes of `mcpd serve --workers`, which starts it."""
    import mcpd.app
    import mcpd.supervision.link

    link = mcpd.supervision.link.join(descriptor)
    link.follow_end(link.config.timeouts.stop_s)
    return mcpd.app.serve(link.config, link)


@click.command(
    epilog=examples(
        "mcpd stdio --files ~/notes",
        "mcpd stdio --tools weather.py --log-level warning",
    )
)
@options(COMMON, SERVED)
def stdio(config_file: Path | None, tools: tuple[str, ...], **given: Any) -> int:
    """Serve MCP on stdin and stdout, for a client that starts the server itself.

    Logs go to stderr.
    """
    import mcpd.app

    return mcpd.app.stdio(load(config_file, flags(tools, **given)))
