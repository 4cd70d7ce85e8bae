"""What `mcpd check` finds out about a Redis server: whether it will do for replicas, and what to change if not.

Each question is one small function that yields advice. Rights are found out by using them, on a key of their own that
ends by itself: to ask for one's rights is a right that few users have.

Called by: `storage.open`. Deliberately not: a watch; a running server says on /readyz how its Redis is.

Laws: every command that any file of this package sends is tried here (a test compares); every finding says what to do.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any, Final

import trio

from mcpd.drivers.redis import Connection, NotExecuted, Redis, RedisError, Refused
from mcpd.drivers.resp import encode
from mcpd.storage.redis.keys import CHECK_TTL_MS, Keys
from mcpd.storage.replicas import Advice

PINGS: Final = 20
SLOW_S: Final = 0.005
"""A call that asks Redis waits for it: within one data centre this is ten times the usual."""

EXAMINE_S: Final = 10.0
"""For everything that is asked of a connected server."""

_TLS_HINT: Final = (
    ". With rediss:// the port has to speak TLS, the name has to be the certificate's, and a private authority be named"
    " by the variable SSL_CERT_FILE"
)

RIGHTS: Final = "~{prefix}* &{prefix}* +@all -@admin -@dangerous +info"
"""The access rule that suffices, for `ACL SETUSER`."""


async def examine(redis: Redis, keys: Keys) -> list[Advice]:
    """Ask a server that nobody uses here yet. Raises nothing of ours. Takes at most some `EXAMINE_S`."""
    found: list[Advice] = []
    with trio.move_on_after(EXAMINE_S) as scope:
        try:
            async with redis.lease() as connection:
                found += _place(redis, connection)
                found.append(await _latency(connection, redis))
                await _use(connection, redis, keys, found)
        except NotExecuted as error:
            hint = _TLS_HINT if redis.address.tls else ""
            found.append(Advice(wrong=True, text=f"{error}; a server starts without it, and is degraded{hint}"))
        except RedisError as error:
            found.append(Advice(wrong=True, text=str(error)))
    if scope.cancelled_caught:
        found.append(Advice(wrong=True, text=f"{redis.address} has not answered within {EXAMINE_S:g} s"))
    return found


def _place(redis: Redis, connection: Connection) -> Iterator[Advice]:
    server, address = connection.server, redis.address
    if server.get("mode") == "cluster":
        yield Advice(wrong=True, text=f"{address} is a Redis Cluster: name a server that is none (cluster-enabled no)")
    if server.get("mode") == "sentinel":
        yield Advice(wrong=True, text=f"{address} is a Sentinel: name the server that it watches")
    if not (address.tls or address.path or _is_loopback(address.host)):
        yield Advice(
            wrong=False, text=f"the connection to {address} is not encrypted: rediss:// is, where the server has TLS"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _use(connection: Connection, redis: Redis, keys: Keys, found: list[Advice]) -> None:
    """Try every command, and read the settings of the server where that is allowed."""
    errors = {**await _tried(connection, keys), **await _tried_channel(redis, keys)}
    refused = {command: error for command, error in errors.items() if error.code == "NOPERM"}
    told = "; ".join(f"{command}: {error}" for command, error in refused.items())
    if refused:
        rule = RIGHTS.format(prefix=keys.prefix)
        found.append(Advice(True, f"{redis.address}: the user lacks rights ({told}); this rule has them: {rule}"))
    failed = next((f"{command}: {error}" for command, error in errors.items() if command not in refused), None)
    if failed is not None:
        found.append(Advice(True, f"{redis.address}: it does not work ({failed}); see the log of Redis"))
    if "INFO" not in errors:
        found += [
            Advice(wrong, f"{redis.address}: {text}") for wrong, text in _settings(await _information(connection))
        ]


async def _latency(connection: Connection, redis: Redis) -> Advice:
    taken = []
    for _ in range(PINGS):
        started = trio.current_time()
        await connection.exchange(encode(["PING"]), 1)
        taken.append(trio.current_time() - started)
    version = f"{connection.server.get('server')} {connection.server.get('version')}"
    text = f"{redis.address}: {version}, {median(taken) * 1000:.2f} ms a command"
    return Advice(wrong=False, text=text + ("; that is far: put it nearer" if median(taken) > SLOW_S else ""))


def probes(keys: Keys) -> Mapping[str, tuple[Any, ...]]:
    """Return every command in use -> arguments that try it and harm nobody. SUBSCRIBE is tried elsewhere."""
    key, stream, hashed, ordered = keys.check, keys.check_stream, keys.check_hash, keys.check_zset
    return {
        "PING": (),
        "TIME": (),
        "SET": (key, "", "PX", CHECK_TTL_MS),
        "GET": (key,),
        "MGET": (key,),
        "XADD": (stream, "MAXLEN", 1, "*", "check", ""),
        "PEXPIRE": (stream, CHECK_TTL_MS),
        "XRANGE": (stream, "-", "+", "COUNT", 1),
        "XLEN": (stream,),
        "XDEL": (stream, "0-1"),
        "XREVRANGE": (stream, "+", "-", "COUNT", 1),
        "HSET": (hashed, "check", ""),
        "PEXPIREAT": (hashed, 1),
        "HGET": (hashed, "check"),
        "HMGET": (hashed, "check"),
        "HSTRLEN": (hashed, "check"),
        "HGETALL": (hashed,),
        "HVALS": (hashed,),
        "HDEL": (hashed, "check"),
        "EXISTS": (hashed,),
        "PTTL": (hashed,),
        "DEL": (hashed,),
        "ZADD": (ordered, 0, "check"),
        "ZRANGE": (ordered, 0, -1),
        "ZSCORE": (ordered, "check"),
        "ZCARD": (ordered,),
        "ZCOUNT": (ordered, "-inf", 0),
        "ZRANGEBYSCORE": (ordered, "-inf", 0),
        "ZREVRANGE": (ordered, 0, 0),
        "ZREMRANGEBYSCORE": (ordered, "-inf", 0),
        "ZREM": (ordered, "check"),
        "EVAL": ("return 1", 1, key),
        "EVALSHA": ("0" * 40, 1, key),
        "PUBLISH": (keys.events, ""),
        "INFO": ("server",),
    }


async def _tried(connection: Connection, keys: Keys) -> dict[str, RedisError]:
    found = {}
    for command, arguments in probes(keys).items():
        try:
            await connection.call(command, *arguments)
        except RedisError as error:
            if error.code != "NOSCRIPT":
                found[command] = error
    return found


async def _tried_channel(redis: Redis, keys: Keys) -> dict[str, RedisError]:
    try:
        async with redis.subscribe(keys.events) as subscription:
            await anext(subscription)
    except Refused as error:
        return {"SUBSCRIBE": error}
    return {}


async def _information(connection: Connection) -> dict[str, str]:
    text = (await connection.call("INFO")).decode("utf-8", "replace")
    return dict(line.partition(":")[::2] for line in text.splitlines() if ":" in line)


def _settings(information: dict[str, str]) -> Iterator[Advice]:
    policy = information.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield Advice(
            wrong=True,
            text=f"maxmemory-policy is {policy}, and it forgets at any time: CONFIG SET maxmemory-policy noeviction",
        )
    if information.get("aof_enabled") == "0":
        yield Advice(
            wrong=False,
            text="a restart forgets sessions, tasks and idempotency keys (appendonly no): appendonly yes keeps them",
        )
