"""Opens what replicas share in Redis, as the configuration says; examines the server for `mcpd check`.

A server that is not there is no error: it may come. One that is there and turns us down for good (password, version),
and a URL that cannot be meant, are the operator's to mend and are said as such.

Called by: `storage.open`, which loads this file, and with it the client, only where a Redis is configured. Calls the
client and what stands over it. Deliberately not: when anything runs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

import trio

from mcpd.config import Config
from mcpd.drivers.redis import NotExecuted, Redis, Refused
from mcpd.drivers.timing import Observe
from mcpd.errors import ConfigurationError
from mcpd.secret import SecretUrl
from mcpd.storage.redis.examining import examine
from mcpd.storage.redis.keys import Keys
from mcpd.storage.redis.rates import RedisRates
from mcpd.storage.redis.shared import RedisShared
from mcpd.storage.replicas import Advice
from mcpd.storage.shared import RateLimits

NAME: Final = "mcpd"
"""What `CLIENT LIST` shows of our connections."""

KNOCK_S: Final = 2.0
"""How long the start of a server waits for a Redis that accepts connections and says nothing."""


class Observer(Protocol):
    """Whoever counts what the caches are asked, and how many connections there are."""

    def cache_asked(self, cache: str, result: str) -> None:
        """Take what came of one question to a cache."""

    def watch_store(self, store: str, state: str, read: Callable[[], float]) -> None:
        """Have `read` say how many connections are in a state."""


async def open_redis(
    config: Config,
    url: SecretUrl,
    normal: Callable[[str], str],
    own: RateLimits,
    *,
    observer: Observer | None,
    observe: Observe | None,
) -> RedisShared:
    """Return what replicas share; it works while its `run` runs.

    `normal` brings all spellings of a URI to one; `own` counts what callers do while the server is away.

    Raises: ConfigurationError.
    """
    try:
        redis = Redis(url.reveal(), name=NAME, observe=observe)
        with trio.move_on_after(KNOCK_S), suppress(NotExecuted):
            async with redis.lease():
                pass
    except Refused as error:
        raise _turned_down(error) from None
    if observer is not None:
        _watch(redis, observer)
    keys = Keys(config.redis.prefix)
    decided_alone = None if observe is None else partial(observe, "take_alone", "ok", 0.0)
    rates = RedisRates(redis, keys, own, alone=decided_alone)
    cached = (lambda _: None) if observer is None else partial(observer.cache_asked, "resources")
    return RedisShared(redis, keys, rates, lease_s=config.timeouts.lease_s, normal=normal, observe=cached)


async def examine_redis(config: Config, url: SecretUrl) -> list[Advice]:
    """Ask the server whether it will do. Raises: ConfigurationError."""
    try:
        redis = Redis(url.reveal(), name=NAME)
    except Refused as error:
        raise _turned_down(error) from None
    return await examine(redis, Keys(config.redis.prefix))


def _watch(redis: Redis, observer: Observer) -> None:
    observer.watch_store("redis", "shared", lambda: redis.statistics().connected)
    observer.watch_store("redis", "subscribed", lambda: redis.statistics().subscribed)
    observer.watch_store("redis", "leased", lambda: redis.statistics().leased)
    observer.watch_store("redis", "idle", lambda: redis.statistics().idle)


def _turned_down(error: Refused) -> ConfigurationError:
    return ConfigurationError(f"redis.url: {error}")
