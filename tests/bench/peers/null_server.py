"""Raw sockets and a fixed reply: not a server, but the load generator's own ceiling.

Called by: `tests/bench/servers.py`, as `python null_server.py PORT`. Whatever arrives is taken for one whole call and
answered with the echo that the benchmarks expect. No benchmark result is compared with it; its row says how many calls
per second the generator can make when the other side costs next to nothing.
"""

from __future__ import annotations

import json
import select
import socket
import sys
from contextlib import suppress

_TEXT = "The quick brown fox jumps over the lazy dog, and the dog is fine."
_RESULT = {"resultType": "complete", "content": [{"type": "text", "text": _TEXT}]}
_BODY = json.dumps({"jsonrpc": "2.0", "id": 1, "result": _RESULT}).encode()
_REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)


def answer(connection: socket.socket) -> bool:
    """Answer what has come; False when the client has left."""
    with suppress(ConnectionError):
        return bool(connection.recv(65536)) and bool(connection.send(_REPLY))
    return False


def serve(listener: socket.socket) -> None:
    """Accept and answer until the process is terminated."""
    poll, connections = select.epoll(), {listener.fileno(): listener}
    poll.register(listener.fileno(), select.EPOLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connections[connection.fileno()] = connection
                poll.register(connection.fileno(), select.EPOLLIN)
            elif not answer(connections[fd]):
                poll.unregister(fd)
                connections.pop(fd).close()


if __name__ == "__main__":
    serve(socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=128))
