"""One Elasticsearch client under one load: `elasticsearch_load.py CLIENT URL LOAD SECONDS`; prints one JSON object.

CLIENT is `mcpd`, `httpx` (bare, on Trio), `elasticsearch-py+aiohttp` or `elasticsearch-py+httpx`. LOAD is `index`,
`search` or `msearch` with a number of tasks (`search-16`), or `bulk` (5,000 documents, 1,000 in a request). Each client
encodes what it sends and decodes all that comes; answers are checked while it warms up. Counted is how many requests
(documents, with `bulk`) are answered, and the processor time of this process.
"""

from __future__ import annotations

import itertools
import json
import sys

from turn import counted

INDEX, DOCUMENTS, CHUNK = "bench", 5_000, 1_000
QUERY = {"query": {"match": {"text": "seven"}}, "size": 10}
SEARCHES = [QUERY, {"query": {"match": {"text": "eight"}}, "size": 10}]
TEXT = "one two three four five six seven eight nine ten " * 8


def documents():
    return [{"text": TEXT, "number": number} for number in range(DOCUMENTS)]


def mcpd(url):
    from msgspec.json import encode

    from mcpd.drivers import elasticsearch_api as api
    from mcpd.drivers import elasticsearch_bulk as bulk
    from mcpd.drivers.elasticsearch import open_elasticsearch

    async def run(use):
        async with open_elasticsearch([url]) as client:

            async def index(key, source):
                return (await client.perform(api.put_document(INDEX, key, encode(source)))).json()["_id"]

            async def search():
                return len((await client.perform(api.search([INDEX], QUERY))).json()["hits"]["hits"])

            async def msearch():
                answer = await client.perform(api.search_many([({"index": INDEX}, one) for one in SEARCHES]))
                return [len(one["hits"]["hits"]) for one in answer.json()["responses"]]

            async def write_all(sources):
                actions = (bulk.put(INDEX, str(key), source) for key, source in enumerate(sources))
                return sum(isinstance(one, bulk.Done) for one in await client.bulk(actions))

            await use(index, search, msearch, write_all)

    return run


def httpx_bare(url):
    import httpx
    from msgspec.json import decode, encode

    headers = {"content-type": "application/json"}
    lines = {"content-type": "application/x-ndjson"}
    kept = "errors,items.*._id,items.*.status,items.*.error,items.*._seq_no,items.*._primary_term,items.*._version"

    async def run(use):
        async with httpx.AsyncClient(
            base_url=url, timeout=60, trust_env=False, headers={"accept-encoding": "identity"}
        ) as client:

            async def index(key, source):
                answer = await client.put(f"/{INDEX}/_doc/{key}", content=encode(source), headers=headers)
                return decode(answer.raise_for_status().content)["_id"]

            async def search():
                answer = await client.post(f"/{INDEX}/_search", content=encode(QUERY), headers=headers)
                return len(decode(answer.raise_for_status().content)["hits"]["hits"])

            async def msearch():
                body = b"".join(encode({"index": INDEX}) + b"\n" + encode(one) + b"\n" for one in SEARCHES)
                answer = await client.post("/_msearch", content=body, headers=lines)
                return [len(one["hits"]["hits"]) for one in decode(answer.raise_for_status().content)["responses"]]

            async def write_all(sources):
                done = 0
                pairs = enumerate(sources)
                while chunk := list(itertools.islice(pairs, CHUNK)):
                    parts = [
                        encode({"index": {"_index": INDEX, "_id": str(key)}}) + b"\n" + encode(source) + b"\n"
                        for key, source in chunk
                    ]
                    answer = await client.post(
                        "/_bulk", params={"filter_path": kept}, content=b"".join(parts), headers=lines
                    )
                    items = decode(answer.raise_for_status().content)["items"]
                    done += sum(item["index"]["status"] < 300 for item in items)
                return done

            await use(index, search, msearch, write_all)

    return run


def elasticsearch_py(url, node_class):
    from elasticsearch import AsyncElasticsearch, helpers

    async def run(use):
        async with AsyncElasticsearch(url, node_class=node_class, request_timeout=60) as client:

            async def index(key, source):
                return (await client.index(index=INDEX, id=key, document=source))["_id"]

            async def search():
                return len((await client.search(index=INDEX, **QUERY))["hits"]["hits"])

            async def msearch():
                pairs = [part for one in SEARCHES for part in ({"index": INDEX}, one)]
                return [len(one["hits"]["hits"]) for one in (await client.msearch(searches=pairs))["responses"]]

            async def write_all(sources):
                actions = ({"_index": INDEX, "_id": str(key), "_source": one} for key, one in enumerate(sources))
                return (await helpers.async_bulk(client, actions, chunk_size=CHUNK))[0]

            await use(index, search, msearch, write_all)

    return run


def load_of(words, seconds, found, run_tasks):
    kind, _, tasks = words.partition("-")
    sources, keys = documents(), itertools.count()

    async def use(index, search, msearch, write_all):
        assert await index("1", sources[1]) == "1"
        assert await search() == 10
        assert await msearch() == [10, 10]
        steps = {
            "index": (lambda: index(str(next(keys) % DOCUMENTS), sources[0]), 1),
            "search": (search, 1),
            "msearch": (msearch, 1),
            "bulk": (lambda: write_all(sources), DOCUMENTS),
        }
        step, weight = steps[kind]
        if kind == "bulk":
            assert await write_all(sources) == DOCUMENTS

        found.update(await counted(step, weight, int(tasks or 1), seconds, run_tasks))

    return use


def on_trio(client, words, seconds, found):
    import trio

    async def tasks(jobs):
        async with trio.open_nursery() as nursery:
            for job in jobs:
                nursery.start_soon(job)

    trio.run(client, load_of(words, seconds, found, tasks))


def on_asyncio(client, words, seconds, found):
    import asyncio  # noqa: TID251 - what the peer is written on

    async def tasks(jobs):
        await asyncio.gather(*(job() for job in jobs))

    asyncio.run(client(load_of(words, seconds, found, tasks)))


def main() -> None:
    name, url, words, seconds = sys.argv[1:]
    found: dict = {}
    if name in ("mcpd", "httpx"):
        on_trio(mcpd(url) if name == "mcpd" else httpx_bare(url), words, float(seconds), found)
    else:
        client = elasticsearch_py(url, "aiohttp" if name.endswith("aiohttp") else "httpxasync")
        on_asyncio(client, words, float(seconds), found)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
