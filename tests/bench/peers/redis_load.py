"""One Redis client under one load: `redis_load.py CLIENT PORT LOAD SECONDS`; prints one JSON object.

CLIENT is `mcpd`, `redis-py`, `redis-py+hiredis` or `coredis`; each runs in an environment of its own. LOAD is `get` or
`set` with a number of tasks (`get-16`), `pipeline` (100 GETs at once, one task) or `big` (a GET of 1 MB, one task).
The replies are compared while it warms up; counted is how many commands are answered, and the processor time of this
process.
"""

from __future__ import annotations

import json
import sys

from turn import counted

SMALL, BIG = b"x" * 100, b"y" * 1_000_000


def clients_of(name: str):
    """The event loop's `run`, how to start tasks, and how to open the client."""
    if name == "mcpd":
        import trio

        from mcpd.drivers.redis import Redis

        async def main(port, use):
            async with trio.open_nursery() as nursery:
                redis = Redis(f"redis://127.0.0.1:{port}")
                await nursery.start(redis.run)

                async def leased(key):
                    async with redis.lease() as connection:
                        return await connection.call("GET", key)

                async def pipeline(keys):
                    return await redis.pipeline([("GET", key) for key in keys])

                await use(
                    lambda key: redis.execute("GET", key),
                    lambda key, value: redis.execute("SET", key, value),
                    pipeline,
                    leased,
                    trio_tasks,
                )
                nursery.cancel_scope.cancel()

        return lambda port, use: trio.run(main, port, use)
    if name == "coredis":
        import coredis
        import trio

        async def main(port, use):
            client = coredis.Redis(host="127.0.0.1", port=port, max_connections=64)
            async with client:

                async def pipeline(keys):
                    async with client.pipeline(transaction=False) as pipe:
                        waiting = [pipe.get(key) for key in keys]
                    return [await one for one in waiting]

                await use(client.get, client.set, pipeline, client.get, trio_tasks)

        return lambda port, use: trio.run(main, port, use)
    import asyncio  # noqa: TID251 - what the peer is written on

    import redis.asyncio

    async def main(port, use):
        client = redis.asyncio.Redis(host="127.0.0.1", port=port, max_connections=64)

        async def pipeline(keys):
            async with client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.get(key)
                return await pipe.execute()

        await use(client.get, client.set, pipeline, client.get, asyncio_tasks)
        await client.aclose()

    return lambda port, use: asyncio.run(main(port, use))


async def trio_tasks(jobs):
    import trio

    async with trio.open_nursery() as nursery:
        for job in jobs:
            nursery.start_soon(job)


async def asyncio_tasks(jobs):
    import asyncio  # noqa: TID251 - what the peer is written on

    await asyncio.gather(*(job() for job in jobs))


def load_of(words: str, seconds: float, found: dict):
    kind, _, tasks = words.partition("-")
    keys = [b"bench:small"] * 100

    async def use(get, put, pipeline, get_big, run_tasks):
        await put(b"bench:small", SMALL)
        await put(b"bench:big", BIG)
        assert bytes(await get(b"bench:small")) == SMALL
        assert bytes(await get_big(b"bench:big")) == BIG
        assert [bytes(value) for value in await pipeline(keys)] == [SMALL] * 100
        steps = {
            "get": (lambda: get(b"bench:small"), 1),
            "set": (lambda: put(b"bench:small", SMALL), 1),
            "pipeline": (lambda: pipeline(keys), 100),
            "big": (lambda: get_big(b"bench:big"), 1),
        }
        step, weight = steps[kind]

        found.update(await counted(step, weight, int(tasks or 1), seconds, run_tasks))

    return use


def main() -> None:
    name, port, words, seconds = sys.argv[1:]
    found: dict = {}
    clients_of(name)(int(port), load_of(words, float(seconds), found))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
