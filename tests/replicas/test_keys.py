"""What replicas leave in Redis: only keys that `storage.redis.keys` documents, and none without an end."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import trio

from mcpd.drivers.redis import Redis
from mcpd.storage.redis import keys as documented
from mcpd.storage.redis.examining import examine
from mcpd.storage.redis.keys import Keys
from mcpd.wire.envelope import IDEMPOTENCY_KEY
from tests.redis_servers import KINDS
from tests.redis_servers import serving as redis_serving
from tests.replicas.replica import Replica, listening, replicas, subscribed
from tests.served import client_of
from tests.tasks.memory import KNOWS

pytestmark = pytest.mark.slow
WAIT_S = 60.0
NOTE = "note:///one"
PREFIX = "site-a:"
SETTINGS = '[redis]\nurl = "{url}"\nprefix = "site-a:"\n[limits]\nrate = "10/h"\ntool_rate = "1000/h"\n'


async def use(replica: Replica) -> int:
    """Do whatever is kept in Redis; return how many calls were let through."""
    statuses = Counter[int]()
    async with client_of(replica.server) as client:
        assert (await client.ask("tools/call", {"name": "later"}, capabilities=dict(KNOWS))).result["taskId"]
        statuses[(await client.ask("resources/read", {"uri": "slow:///one"})).status] += 1
        for number in range(6):
            arguments = {"name": "echo", "arguments": {"text": "x"}}
            meta = {IDEMPOTENCY_KEY: "key"} if number == 0 else None
            statuses[(await client.ask("tools/call", arguments, meta=meta)).status] += 1
    return statuses[200] + 1


async def names(redis: Redis) -> list[str]:
    """Return every key there is, whatever it is called."""
    cursor, found = b"0", list[str]()
    while True:
        cursor, some = await redis.execute("SCAN", cursor, "COUNT", 1000)
        found += [name.decode() for name in some]
        if cursor == b"0":
            return found


@pytest.mark.parametrize("kind", KINDS)
async def test_every_key_is_documented_and_ends_and_rates_hold_over_replicas(tmp_path: Path, kind: str) -> None:
    """Section 3 of what replicas must do: one rate over all of them."""
    with trio.fail_after(WAIT_S):
        with redis_serving(kind) as server, replicas(tmp_path, SETTINGS.format(url=server.url)) as both:
            for replica in both:
                await replica.wait_ready(r"^ready\n")
            async with listening(both[0], NOTE) as one, subscribed(both[1], NOTE) as two:
                await both[0].change(NOTE)
                await one.wait(NOTE)
                await two.wait(NOTE)
                passed = [await use(replica) for replica in both]
            assert sum(passed) == 9, "ten in all, one of them announced the change"
            await examine(Redis(server.url), Keys(PREFIX))
            await check_keys(server.url)


SESSIONS = ("all", "one", "of")


async def check_keys(url: str) -> None:
    known = Keys(PREFIX)
    async with trio.open_nursery() as nursery:
        redis = Redis(url)
        await nursery.start(redis.run)
        found = await names(redis)
        for name in found:
            longest = known.longest_ms(name)
            assert longest is not None, f"{name} is not in storage/redis/keys.py"
            assert 0 < await redis.execute("PTTL", name) <= longest, name
        nursery.cancel_scope.cancel()
    kinds = {re.sub(r"(\{rate|\}:one|\}:of):[^:}]+", r"\1", name).removeprefix(PREFIX) for name in found}
    assert kinds >= {"{run}:events", "{check}:key", "{rate}:caller", *(f"{{sessions}}:{one}" for one in SESSIONS)}
    assert {known.owners, known.lease, known.idempotency_keys} <= set(found)
    assert {known.inboxes, known.inbox_lease} <= set(found)
    assert {known.cache_state, *known.cached_index("cache")} <= set(found)
    assert {known.tasks, known.task_states, known.task_changes} <= set(found)
    assert any(re.fullmatch(re.escape(PREFIX) + r"\{run\}:key:[0-9a-f]{64}", name) for name in found)


def test_the_table_of_keys_names_each_kind() -> None:
    """A key that `Keys` can make is in the table of its file, which is what an operator reads."""
    known = Keys("p:")
    made = [known.events, known.check, known.check_stream, known.check_hash, known.check_zset, known.rate("s", "NAME")]
    made += [known.owners, known.lease, known.idempotency_keys, known.seals]
    made += [known.inboxes, known.inbox_lease, known.inbox("ADDRESS")]
    made += [known.idempotency_key("ID"), known.idempotency_keys_of("s")]
    made += [known.tasks, known.task("ID"), known.tasks_of("s"), known.task_states, known.task_changes]
    made += [known.cached("URI", "ID"), known.cache_claim("URI", "ID"), known.cache_state, known.cache_state_of("URI")]
    made += [known.vector("ID"), *known.cached_index("KIND")]
    made += [known.sessions, known.session("KEY"), known.sessions_of("SHARE"), *known.replies("KEY")]
    table = re.findall(r"^    (\{\S+) ", documented.__doc__ or "", re.MULTILINE)
    shown = {re.sub(r"\{rate:[0-9a-f]+\}", "{rate:SHARE}", name.removeprefix("p:")) for name in made}
    shown = {re.sub(r":keys:[0-9a-f]+$", ":keys:SHARE", name) for name in shown}
    shown = {re.sub(r":tasks:[0-9a-f]+$", ":tasks:SHARE", name) for name in shown}
    shown = {re.sub(r":(cache|cache-claim):[0-9a-f]+:[0-9a-f]+$", r":\1:URI:ID", name) for name in shown}
    shown = {re.sub(r":cache-state:[0-9a-f]+$", ":cache-state:URI", name) for name in shown}
    shown = {re.sub(r":vector:[0-9a-f]+$", ":vector:ID", name) for name in shown}
    assert shown == set(table)
    public = {name for name in vars(known) if name != "prefix"} | {"rate"}
    kinds = {
        "events",
        "check",
        "check_stream",
        "check_hash",
        "check_zset",
        "owners",
        "lease",
        "inboxes",
        "inbox_lease",
        "idempotency_keys",
        "sessions",
        "tasks",
        "task_states",
        "task_changes",
        "cache_state",
        "seals",
        "rate",
    }
    assert public == kinds, "a new kind of key belongs into this test"
