"""Installs the peers, once, outside the repository: `python -m tests.bench.install` makes all of them.

Called by: `servers`, when a peer is first started. Each Python peer gets a virtual environment of its own from the
pinned list beside it (their dependencies differ from ours), the TypeScript peer its `node_modules`, the Go peer a
built binary. They live in `$MCPD_BENCH_CACHE`, by default `~/.cache/mcpd-bench`; a stamp holds the digest of what was
installed, so that a changed pin is installed anew. Only the ordinary clients of the package registries are used.

Raises (everywhere): `Missing` when a tool that a peer needs (node, npm, go) is not on this machine: that peer is then
left out, by name, and the rest is measured.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

PEERS = Path(__file__).parent / "peers"
CACHE = Path(os.environ.get("MCPD_BENCH_CACHE") or Path.home() / ".cache" / "mcpd-bench")


class Missing(Exception):
    """A peer cannot be installed here; the text says what is missing."""


def tool(name: str) -> str:
    """The path of an installed program."""
    path = shutil.which(name)
    if path is None:
        raise Missing(f"{name} is not installed")
    return path


def pinned(file: str, package: str) -> str:
    """The version of `package` in one of the lists in `peers/` (pip, npm and Go spell it differently)."""
    found = re.search(rf"^\W*(?:require )?{re.escape(package)}\W+v?([\d.]+)", (PEERS / file).read_text(), re.MULTILINE)
    assert found, f"{package} is not pinned in {file}"
    return found[1]


def _run(arguments: list[str], folder: Path, **environment: str) -> None:
    done = subprocess.run(
        arguments, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Missing(f"{Path(arguments[0]).name} failed: {(done.stderr or done.stdout)[-600:].strip()}")


def _once(name: str, sources: list[Path], make: Callable[[Path], None]) -> Path:
    """The folder of peer `name`, made by `make` unless its stamp says that these very sources were installed."""
    folder = CACHE / name
    stamp = folder / "stamp"
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        print(f"installing {name} ...", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make(folder)
        stamp.write_text(digest)
    return folder


def python_peer(name: str, *flags: str) -> str:
    """The interpreter of a virtual environment with the peer's pinned list; `flags` are pip's."""
    pins = PEERS / f"{name}.txt"

    def make(folder: Path) -> None:
        _run([sys.executable, "-m", "venv", str(folder / "venv")], folder)
        _run([str(folder / "venv/bin/python"), "-m", "pip", "install", "-q", *flags, "-r", str(pins)], folder)

    return str(_once(name, [pins], make) / "venv/bin/python")


def typescript_peer() -> str:
    """The path of the TypeScript peer's script, beside its `node_modules`."""
    source = PEERS / "typescript_sdk"
    files = [source / "package.json", source / "package-lock.json", source / "server.mjs"]

    def make(folder: Path) -> None:
        for file in files:
            shutil.copy(file, folder)
        _run([tool("npm"), "ci", "--no-audit", "--no-fund", "--silent"], folder)

    tool("node")
    return str(_once("typescript_sdk", files, make) / "server.mjs")


def go_peer() -> str:
    """The path of the built Go peer."""
    source = PEERS / "go_sdk"

    def make(folder: Path) -> None:
        _run([tool("go"), "build", "-o", str(folder / "peer"), "."], source, GOFLAGS="-mod=readonly -buildvcs=false")

    return str(_once("go_sdk", sorted(source.iterdir()), make) / "peer")


def main() -> None:
    """Install every peer that this machine can hold."""
    makers: list[Callable[[], str]] = [
        lambda: python_peer("python_sdk"),
        lambda: python_peer("fastmcp_framework"),
        lambda: python_peer("minilm", "--no-deps"),
        typescript_peer,
        go_peer,
    ]
    for make in makers:
        try:
            print(make())
        except Missing as reason:
            print(f"left out: {reason}", file=sys.stderr)


if __name__ == "__main__":
    main()
