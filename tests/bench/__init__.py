"""Benchmarks: mcpd beside the bare limits and beside other MCP servers, each doing the very same call.

Run by hand (`just bench`, `just bench-core`), never by a test run, and never a reason to fail one: they print a table,
write JSON, and say which targets were met.

| module | is |
|---|---|
| `http`, `websocket`, `start_memory`, `disconnect`, `core` | the benchmarks, each `python -m tests.bench.NAME` |
| `search`, `search_quality` | the same for documents, with their `search_*` parts |
| `redis_client` | our Redis client beside others |
| `http_redis`, `workers` | mcpd beside itself: with Redis behind it, with several processes |
| `servers`, `install`, `peers/` | what is measured: how each server is started, installed, written |
| `call`, `lanes`, `generator` | the call itself, and the load generator (a process of its own) |
| `rounds`, `report`, `machine` | alternated rounds and their ratios; tables and JSON; /proc |

Laws: the servers of one benchmark are all up at once and take turns (A B C, C B A, A B C ...), so that a change of
the machine's mood hits neighbours alike; every ratio is the median of the ratios *within* a round, with its spread; a
server is measured only after its reply was compared, member by member, with the one that everybody must give.
"""
