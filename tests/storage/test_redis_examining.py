"""What `mcpd check` says of real Redis servers: sound, short of rights, evicting, a cluster, a replica, or away."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from mcpd.commands.checking import examine
from mcpd.config import Config, Data, Files, Redis
from mcpd.drivers.redis import Redis as Client
from mcpd.secret import SecretUrl
from mcpd.storage.redis import examining
from mcpd.storage.redis.examining import RIGHTS, probes
from mcpd.storage.redis.keys import Keys
from tests.redis_servers import KINDS, RedisServer, free_port, make_certificate, tls_options
from tests.redis_servers import serving as redis_serving
from tests.source import ROOT

WAIT_S = 60.0
USER, PASSWORD = "agent", "s3cret"


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with redis_serving(request.param, "--appendonly", "yes") as running:
        yield running


async def told(url: str, keys: Keys | None = None) -> tuple[list[str], list[str]]:
    """Return what is wrong with the server at `url`, and what else is worth knowing."""
    with trio.fail_after(WAIT_S):
        found = await examining.examine(Client(url), keys or Keys("test:"))
    assert PASSWORD not in str(found)
    return [one.text for one in found if one.wrong], [one.text for one in found if not one.wrong]


async def test_a_sound_server_has_its_version_and_its_distance_told(server: RedisServer) -> None:
    wrong, notes = await told(server.url)
    assert wrong == []
    assert len(notes) == 1
    assert re.fullmatch(rf"{server.url}: (redis|valkey) \d[\d.]+, \d+\.\d\d ms a command", notes[0])


async def test_the_rule_that_is_advised_suffices(server: RedisServer) -> None:
    rule = RIGHTS.format(prefix="test:").split()
    assert server.ask("ACL", "SETUSER", USER, "reset", "on", f">{PASSWORD}", *rule) == b"+OK\r\n"
    wrong, _ = await told(f"redis://{USER}:{PASSWORD}@127.0.0.1:{server.port}")
    assert wrong == []


@pytest.mark.parametrize("command", [*probes(Keys()), "SUBSCRIBE"])
async def test_each_command_that_a_user_may_not_send_is_named(server: RedisServer, command: str) -> None:
    rule = RIGHTS.format(prefix="test:").split()
    server.ask("ACL", "SETUSER", USER, "reset", "on", f">{PASSWORD}", *rule, f"-{command.lower()}")
    (wrong,), _ = await told(f"redis://{USER}:{PASSWORD}@127.0.0.1:{server.port}")
    assert re.search(rf"lacks rights \({command}: [^;]*\); this rule has them: {re.escape(' '.join(rule))}", wrong)


@pytest.mark.parametrize("pattern", ["~test:*", "&test:*"])
async def test_keys_and_channels_that_a_user_may_not_touch_are_named(server: RedisServer, pattern: str) -> None:
    rule = [word for word in RIGHTS.format(prefix="test:").split() if word != pattern]
    server.ask("ACL", "SETUSER", USER, "reset", "resetchannels", "on", f">{PASSWORD}", *rule)
    (wrong,), _ = await told(f"redis://{USER}:{PASSWORD}@127.0.0.1:{server.port}")
    missing = {"~test:*": ("SET", "XADD", "EVAL"), "&test:*": ("PUBLISH", "SUBSCRIBE")}[pattern]
    assert all(f"{command}: " in wrong for command in missing)


async def test_what_it_tries_leaves_nothing_that_stays(server: RedisServer) -> None:
    await told(server.url)
    for key in (Keys("test:").check, Keys("test:").check_stream):
        assert 0 < int(server.ask("PTTL", key)[1:]) <= 10_000


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_server_that_evicts_will_not_do(policy: str) -> None:
    with redis_serving("redis-7", "--maxmemory-policy", policy) as server:
        wrong, notes = await told(server.url)
    assert len(wrong) == 1
    assert "CONFIG SET maxmemory-policy noeviction" in wrong[0]
    assert any("idempotency keys (appendonly no): appendonly yes" in note for note in notes)


async def test_a_cluster_and_a_replica_will_not_do() -> None:
    with redis_serving("redis-7", "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as server:
        wrong, _ = await told(server.url)
        assert "is a Redis Cluster" in wrong[0]
    with redis_serving("redis-7", "--replicaof", "127.0.0.1", str(free_port())) as server:
        wrong, _ = await told(server.url)
        assert "name its primary" in wrong[0]


async def test_a_server_that_takes_no_writes_will_not_do() -> None:
    with redis_serving("redis-7", "--maxmemory", "1") as server:
        wrong, _ = await told(server.url)
    assert len(wrong) == 1
    assert "it does not work" in wrong[0]
    assert "OOM" in wrong[0]


async def test_a_server_that_is_away_stopped_or_locked_is_told() -> None:
    port = free_port()
    wrong, _ = await told(f"redis://:{PASSWORD}@127.0.0.1:{port}")
    assert "is degraded" in wrong[0]
    with redis_serving("redis-7", "--requirepass", "other", port=port):
        wrong, _ = await told(f"redis://:{PASSWORD}@127.0.0.1:{port}")
    assert "WRONGPASS" in wrong[0]


async def test_a_server_that_stops_half_way_ends_no_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examining, "EXAMINE_S", 0.5)
    with redis_serving("redis-7") as server:
        server.ask("CLIENT", "PAUSE", "60000", "WRITE")
        wrong, notes = await told(server.url)
    assert "has not answered within" in wrong[0]
    assert notes, "what was found before is told"


async def test_a_connection_in_clear_to_elsewhere_is_pointed_out() -> None:
    with redis_serving("redis-7") as server:
        _, notes = await told(f"redis://0.0.0.0:{server.port}")
    assert any("rediss://" in note for note in notes)


async def test_tls_is_asked_for_and_what_is_wrong_with_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    certificate = make_certificate(tmp_path)
    with redis_serving("redis-7", *tls_options(certificate, port), "--appendonly", "yes") as server:
        wrong, _ = await told(f"rediss://localhost:{port}")
        assert "certificate verify failed" in wrong[0]
        assert "SSL_CERT_FILE" in wrong[0]
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
        wrong, notes = await told(f"rediss://localhost:{port}")
        assert (wrong, len(notes)) == ([], 1)
        wrong, _ = await told(f"rediss://127.0.0.1:{port}")
        assert "the name has to be the certificate's" in wrong[0]
        monkeypatch.setattr(examining, "EXAMINE_S", 0.5)
        wrong, _ = await told(f"rediss://localhost:{server.port}")
        assert "has not answered" in wrong[0], "a plain port says nothing to TLS"


@pytest.mark.parametrize(("kind", "version"), [("redis", "6.2.14"), ("valkey", "7.2.5"), ("dragonfly", "1.0")])
async def test_a_server_that_is_too_old_or_another_will_not_do(kind: str, version: str) -> None:
    """A server of that version is not to be had; what it says first is."""

    async def greet(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        words = [word for pair in (("server", kind), ("version", version)) for word in pair]
        await stream.send_all(b"%2\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(word), word.encode()) for word in words))
        await stream.receive_some()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(trio.serve_listeners, greet, [listener])
        wrong, _ = await told(f"redis://127.0.0.1:{listener.socket.getsockname()[1]}")
        nursery.cancel_scope.cancel()
    assert f"runs {kind} {version}; redis 7.0 or valkey 8.0 or newer is needed" in wrong[0]


def test_every_command_that_is_sent_is_tried() -> None:
    """Law of `examining`: a right that is missing is found by the check and not by the first user."""
    sent = set()
    for path in ROOT.glob("mcpd/storage/redis/*.py"):
        text = path.read_text(encoding="utf-8")
        sent |= {word.upper() for word in re.findall(r"redis\.p?call\('(\w+)'", text)}
        sent |= set(re.findall(r"execute\(\s*\"(\w+)\"", text))
        sent |= {"SUBSCRIBE"} if "subscribe(" in text else set()
        sent |= {"EVAL", "EVALSHA"} if "run_script(" in text else set()
    assert {"XADD", "PING", "SUBSCRIBE", "EVALSHA"} <= sent
    assert sent <= {*probes(Keys()), "SUBSCRIBE"}


def test_the_check_of_the_command_line_asks_redis(tmp_path: Path) -> None:
    config = Config(
        data=Data(folder=tmp_path),
        files=Files(enabled=False),
        redis=Redis(url=SecretUrl(f"redis://:{PASSWORD}@127.0.0.1:{free_port()}")),
    )
    report = examine(lambda: config)
    assert any(problem.startswith("redis: ") for problem in report.problems)
    assert PASSWORD not in report.as_text()
    config = Config(data=Data(folder=tmp_path), redis=Redis(url=SecretUrl(f"redis://:{PASSWORD}/x@h")))
    assert any("no URL of a Redis" in problem for problem in examine(lambda: config).problems)
