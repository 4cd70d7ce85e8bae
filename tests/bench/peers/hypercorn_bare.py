"""Runs an ASGI application under Hypercorn-Trio with the configuration that mcpd gives it.

Called by: `bare_asgi.py`, `bare_quart.py` and `bare_websocket.py`, the three "bare limit" peers. It calls Hypercorn
and Trio, and deliberately nothing of mcpd: a limit must not move when mcpd does. It is not a general server runner.

Law: what is set here is what mcpd's own HTTP transport sets on the hot path: no access log, no Server header, the
same pings, no cap on the requests of one connection that a run could meet, TCP_NODELAY by Hypercorn's own hand.
"""

from __future__ import annotations

from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve


def run(app: Any, port: int) -> None:
    """Serve `app` on 127.0.0.1:`port` until the process is terminated."""
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    config.keep_alive_timeout = 75
    config.keep_alive_max_requests = 1_000_000
    config.websocket_ping_interval = 15
    trio.run(serve, app, config)
