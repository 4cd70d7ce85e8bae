"""A real Elasticsearch for tests: one server for the whole run, started when the first test asks for it.

Elastic publishes a runnable test distribution to Maven Central, without a JDK and without some modules (Painless,
reindexing, most analysers), which mcpd must not need. `mvn` downloads it once, into a cache folder. As root it runs
as `nobody`, since Elasticsearch refuses to run as root.

`shared()` is the server of this run, ended with it; each test takes a `fresh_prefix()` for its indices and removes
them with `forget`. A test may pause, kill and restart the shared server, if it leaves it running. `serving` starts one
of a test's own. `MCPD_TEST_ELASTICSEARCH=http://...` names a server to use instead, which saves the start while one
test is run again and again; tests that have to stop it are skipped then. Deliberately not: a fake of anything.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from tests.needs import need
from tests.redis_servers import free_port

VERSION: Final = "8.19.16"
ARTIFACT: Final = f"org.elasticsearch.distribution.integ-test-zip:elasticsearch:{VERSION}:zip"
COPY: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
DICTIONARIES: Final = Path("/usr/share/hunspell")
LANGUAGES: Final = ("en_US", "ru_RU")
USER: Final = "nobody"
USER_GROUP: Final = 65534
"""Of `nobody`, whatever the system calls it."""
PASSWORD: Final = "correct-horse"
START_S: Final = 180.0
END_S: Final = 30.0
DOWNLOAD_S: Final = 600.0

SETTINGS: Final = """\
cluster.name: test
node.name: n1
network.host: 127.0.0.1
http.port: {port}
transport.port: 0
discovery.type: single-node
action.destructive_requires_name: false
cluster.max_shards_per_node: 10000
cluster.routing.allocation.disk.threshold_enabled: false
node.store.allow_mmap: false
xpack.security.enabled: {security}
"""
SECURITY: Final = """\
xpack.security.autoconfiguration.enabled: false
xpack.security.http.ssl.enabled: false
xpack.security.transport.ssl.enabled: false
"""
OPTIONS: Final = "-Xms512m -Xmx512m -Dsun.tools.attach.attachTimeout=60000"

_numbers: Final = itertools.count(1)


def fresh_prefix() -> str:
    """Return a prefix of index names that no other test has."""
    return f"t{os.getpid()}-{next(_numbers)}"


@dataclass
class ElasticsearchServer:
    """A server that runs, or could again after `kill`. With `password`, the user is `elastic`."""

    url: str
    home: Path | None = None
    """Of the installation; None for a server that somebody else started."""
    password: str = ""
    launcher: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send one request on a connection of its own; return the status and the decoded answer."""
        return self.send(method, path, None if body is None else json.dumps(body))

    def send(self, method: str, path: str, body: str | None) -> tuple[int, Any]:
        """Send one request with a body as it is; see `ask`."""
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
        headers = {"Content-Type": "application/json"}
        if self.password:
            headers["Authorization"] = f"Basic {b64encode(f'elastic:{self.password}'.encode()).decode()}"
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
            return answer.status, json.loads(data) if data else None
        finally:
            connection.close()

    def forget(self, prefix: str) -> None:
        """Delete the indices whose names begin so."""
        self.ask("DELETE", f"/{prefix}*?expand_wildcards=all&ignore_unavailable=true")

    def empty(self, prefix: str) -> None:
        """Delete all documents of the indices whose names begin so; the indices stay."""
        search = f"/{prefix}-*/_search?expand_wildcards=all"
        self.ask("POST", f"/{prefix}-*/_refresh")
        while hits := self.ask("POST", search, {"size": 10_000, "_source": False})[1]["hits"]["hits"]:
            names = [{"_index": hit["_index"], "_id": hit["_id"], "routing": hit.get("_routing")} for hit in hits]
            self.send("POST", "/_bulk?refresh=true", "".join(f"{json.dumps({'delete': name})}\n" for name in names))

    def pause(self) -> None:
        """Stop the process; connections stay open and nothing answers."""
        os.kill(self._pid(), signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._pid(), signal.SIGCONT)

    def kill(self) -> None:
        """End the process as a failure would, with what it has not written yet."""
        pid, launcher = self._pid(), self.launcher
        assert launcher is not None
        os.kill(pid, signal.SIGKILL)
        launcher.wait(END_S)

    def start_again(self) -> None:
        """Start it after `kill`, with its data, at the same port; `wait_up` says when it answers."""
        assert self.home is not None
        self.launcher = _launch(self.home)

    def wait_up(self) -> None:
        """Return when it answers and its indices are readable."""
        assert self.launcher is not None
        path = "/_cluster/health?wait_for_status=yellow&wait_for_no_initializing_shards=true&timeout=30s"
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            try:
                if self.ask("GET", path)[0] == 200:
                    return
            except OSError:
                pass
            try:
                code = self.launcher.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(f"Elasticsearch ended with {code}: {_last_words(self.home)}")
        raise AssertionError(f"Elasticsearch does not answer within {START_S:g} s: {_last_words(self.home)}")

    def stop(self) -> None:
        """End it for good."""
        if self.launcher is None or self.launcher.poll() is not None:
            return
        with ExitStack() as undone:
            undone.callback(self.launcher.wait)
            undone.callback(self.launcher.kill)
            os.kill(self._pid(), signal.SIGKILL)

    def _pid(self) -> int:
        if self.home is None:
            pytest.skip("the server at MCPD_TEST_ELASTICSEARCH is not ours to stop")
        return int((self.home / "tmp/es.pid").read_text())


@contextmanager
def serving(*, security: bool = False) -> Iterator[ElasticsearchServer]:
    """Run a server of its own until the body is done."""
    for program in ("java", "mvn", "unzip"):
        need(program)
    with tempfile.TemporaryDirectory(prefix="elasticsearch", ignore_cleanup_errors=True) as folder:
        port = free_port()
        home = _installed(Path(folder), port, security=security)
        server = ElasticsearchServer(f"http://127.0.0.1:{port}", home, PASSWORD if security else "", _launch(home))
        try:
            server.wait_up()
            yield server
        finally:
            server.stop()


_running = ExitStack()
_shared: list[ElasticsearchServer] = []


def shared() -> ElasticsearchServer:
    """Return the server of this run; the first call starts it. Blocking."""
    if not _shared:
        given = os.environ.get("MCPD_TEST_ELASTICSEARCH")
        _shared.append(ElasticsearchServer(given) if given else _running.enter_context(serving()))
    return _shared[0]


def end_shared() -> None:
    """End the server of this run, if there is one."""
    _shared.clear()
    _running.close()


def _distribution() -> Path:
    """Return the distribution's file, downloading it where there is none."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mcpd-tests"
    file = cache / f"elasticsearch-{VERSION}.zip"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            words = [str(need("mvn")), "-B", "-q", COPY, f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={folder}"]
            subprocess.run(words, check=True, timeout=DOWNLOAD_S, stdout=subprocess.DEVNULL)
            (Path(folder) / file.name).replace(file)
    return file


def _installed(folder: Path, port: int, *, security: bool) -> Path:
    """Unpack and configure it, for the user that will run it; return its home."""
    subprocess.run([need("unzip"), "-q", str(_distribution()), "-d", str(folder)], check=True)
    home = folder / f"elasticsearch-{VERSION}"
    for name in ("logs", "data", "plugins", "tmp"):
        (home / name).mkdir(exist_ok=True)
    for name in LANGUAGES:
        if (DICTIONARIES / f"{name}.aff").exists():
            place = home / "config/hunspell" / name
            place.mkdir(parents=True)
            for ending in ("aff", "dic"):
                shutil.copy(DICTIONARIES / f"{name}.{ending}", place)
    settings = SETTINGS.format(port=port, security=str(security).lower()) + (SECURITY if security else "")
    (home / "config/elasticsearch.yml").write_text(settings)
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", USER, str(folder)], check=True)
    if security:
        _run(home, "elasticsearch-keystore", "create")
        _run(home, "elasticsearch-keystore", "add", "-x", "-f", "bootstrap.password", given=PASSWORD)
    return home


def _run(home: Path, program: str, *words: str, given: str = "") -> None:
    command = [str(home / "bin" / program), *words]
    subprocess.run(command, input=given.encode(), check=True, capture_output=True, timeout=START_S, **_as_user(home))


def _launch(home: Path) -> subprocess.Popen[bytes]:
    """Start it. Whatever becomes of us, it ends with us where the system can see to that: with the thread, in fact."""
    assert threading.current_thread() is threading.main_thread(), "it would end with this thread"
    words = [str(home / "bin/elasticsearch"), "-p", str(home / "tmp/es.pid")]
    if shutil.which("setpriv"):
        words = ["setpriv", "--pdeathsig", "KILL", *words]
    (home / "tmp/es.pid").unlink(missing_ok=True)
    with (home / "out.log").open("ab") as log:
        return subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, **_as_user(home))


def _as_user(home: Path) -> dict[str, Any]:
    """Return the options of a process that runs as somebody who is not root, in an environment of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "JAVA_HOME"}
    environment |= {"HOME": f"{home}/tmp", "ES_TMPDIR": f"{home}/tmp", "ES_JAVA_OPTS": OPTIONS}
    environment["ES_JAVA_HOME"] = str(need("java").resolve().parents[1])
    given: dict[str, Any] = {"env": environment, "cwd": home}
    return given | {"user": USER, "group": USER_GROUP, "extra_groups": []} if os.geteuid() == 0 else given


def _last_words(home: Path | None) -> str:
    log = home / "out.log" if home else None
    return log.read_text(errors="replace")[-2_000:] if log is not None and log.exists() else ""
