"""What a stateless call asks of Redis: nothing. The witness is Redis's own MONITOR, which shows every command.

A replica reads its streams now and then, whether or not it is called; a call with an idempotency key
is what shows that the witness would see one.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from mcpd.wire.envelope import IDEMPOTENCY_KEY
from tests.redis_servers import RedisServer
from tests.redis_servers import serving as redis_serving
from tests.replicas.replica import replicas
from tests.served import client_of

WAIT_S = 60.0
CALLS = 50
BESIDE_CALLS = ("{run}:events", "{run}:inbox")
"""The streams of change events and of what replicas tell each other, which are read every other second."""
OF_A_SCRIPT = " lua]"


@contextmanager
def monitoring(redis: RedisServer) -> Iterator[Witness]:
    """Watch all commands from now on."""
    with socket.create_connection(("127.0.0.1", redis.port), timeout=WAIT_S) as sock:
        witness = Witness(redis, sock)
        sock.sendall(b"MONITOR\r\n")
        assert witness.line() == "+OK"
        yield witness


class Witness:
    """A connection on which MONITOR shows commands."""

    def __init__(self, redis: RedisServer, sock: socket.socket) -> None:
        self._redis = redis
        self._file = sock.makefile("r", encoding="utf-8", errors="replace")

    def line(self) -> str:
        """Return the next line."""
        return self._file.readline().rstrip()

    def seen(self, mark: str) -> list[str]:
        """Return the commands of clients until now, but for those that go on beside calls."""
        self._redis.ask("ECHO", mark)
        lines: list[str] = []
        while mark not in (line := self.line()):
            lines.append(line)
        return [line for line in lines if not any(part in line for part in (OF_A_SCRIPT, *BESIDE_CALLS))]


async def test_a_stateless_call_sends_no_command_to_redis(tmp_path: Path) -> None:
    """STA-1: `tools/call`, `tools/list` and `server/discover`, on a server that shares whatever can be shared."""
    with redis_serving("redis-7") as redis, replicas(tmp_path, f'[redis]\nurl = "{redis.url}"\n', 1) as (replica,):
        with trio.fail_after(WAIT_S):
            await replica.wait_ready(r"^ready\n")
            async with client_of(replica.server) as client:
                with monitoring(redis) as witness:
                    for number in range(CALLS):
                        reply = await client.ask("tools/call", {"name": "echo", "arguments": {"text": str(number)}})
                        assert reply.result["content"][0]["text"] == str(number)
                    await client.ask("tools/list")
                    await client.ask("server/discover")
                    assert witness.seen("after-the-calls") == []
                    await client.ask("tools/call", {"name": "echo"}, meta={IDEMPOTENCY_KEY: "key"})
                    assert any("EVALSHA" in line for line in witness.seen("after-a-key"))
