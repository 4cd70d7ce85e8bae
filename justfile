# Recipes of mcpd. `just` alone lists them; `pip install rust-just` brings just where no package does.

venv := env("VIRTUAL_ENV", justfile_directory() / ".venv")
python := venv / "bin/python"

# List the recipes.
default:
    @just --list --unsorted

# Make .venv and install mcpd into it, editable, with what the tests need.
install:
    test -x {{ python }} || python3 -m venv {{ venv }}
    {{ python }} -m pip install --quiet --editable '.[test]'

# Install the pinned Node.js packages: the conformance suite and the TypeScript clients.
node:
    for lock in tests/*/package-lock.json; do npm ci --prefix "$(dirname "$lock")"; done

# Run the server with its embedded default; arguments go to `mcpd serve`.
run *arguments:
    {{ python }} -m mcpd serve {{ arguments }}

# Run the tests; arguments go to pytest.
test *arguments:
    {{ python }} -m pytest {{ arguments }}

# Run the tests that take no more than a few seconds each.
test-fast *arguments:
    {{ python }} -m pytest -m 'not slow' {{ arguments }}

# Look for mistakes and unusual formatting.
lint:
    .ci/lint {{ python }}

# Format the code and mend what ruff can mend by itself.
format:
    {{ python }} -m ruff check --fix
    {{ python }} -m ruff format

# Check the types, strictly.
types:
    {{ python }} -m mypy

# Run the official conformance suite, both revisions, against one server and against three behind a balancer.
conformance: node
    {{ python }} -m pytest tests/conformance

# Run one server under all kinds of clients, hostile ones too, and see whether it is as it was: `just soak 40m --seed 7`.
soak *arguments:
    {{ python }} -m tests.soak {{ arguments }}

# Kill replicas and break their Redis under clients of both eras, and see whether anything is lost: `just chaos 20m`.
chaos *arguments:
    {{ python }} -m tests.chaos {{ arguments }}

# Measure against the bare limit and the peers, over HTTP and WebSocket; never part of pass or fail.
bench *arguments:
    {{ python }} -m tests.bench.http {{ arguments }}
    {{ python }} -m tests.bench.websocket {{ arguments }}
    {{ python }} -m tests.bench.start_memory {{ arguments }}
    {{ python }} -m tests.bench.disconnect {{ arguments }}

# Measure one echo call from body bytes to reply bytes without HTTP, with a profile.
bench-core *arguments:
    {{ python }} -m tests.bench.core {{ arguments }}

# Measure mcpd with Redis behind it beside mcpd without, over HTTP, taking turns.
bench-with-redis *arguments:
    {{ python }} -m tests.bench.http_redis {{ arguments }}

# Measure `mcpd serve --workers 2` beside one process: calls per second of processor time, and who gets the connections.
bench-workers *arguments:
    {{ python }} -m tests.bench.workers {{ arguments }}

# Measure the Redis client beside redis-py and coredis, on one server, taking turns.
bench-redis *arguments:
    {{ python }} -m tests.bench.redis_client {{ arguments }}

# Measure the Elasticsearch client beside bare httpx and elasticsearch-py, on one server, taking turns.
bench-elasticsearch *arguments:
    {{ python }} -m tests.bench.elasticsearch {{ arguments }}

# Ingest Python's own sources and search them: speed, memory, recall of the vectors.
bench-search *arguments:
    {{ python }} -m tests.bench.search {{ arguments }}

# Judge the search modes on the Cranfield collection; --collection FOLDER or MCPD_CRANFIELD says where that is.
bench-quality *arguments:
    {{ python }} -m tests.bench.search_quality {{ arguments }}

# Write the generated tables of the README (settings) anew.
readme:
    {{ python }} -m tests.readme

# Say which protocol requirements have no test yet; with --write, add newly cited tests to the map.
requirements *arguments:
    {{ python }} -m tests.requirements {{ arguments }}

# Break rules of the protocol and the code in copies, and see each one's tests turn red; --only WORD for some.
break-laws *arguments:
    {{ python }} -m tests.laws.break_laws {{ arguments }}

# Lock the dependencies and export the two requirements files; needs poetry and poetry-plugin-export.
lock:
    python3 .ci/lock.py

# Everything that has to be green before a commit.
check: lint types test

# What continuous integration runs, from nothing.
ci:
    bash .ci/run
