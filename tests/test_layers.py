"""The import rules: which name may import which, who may touch which library, and what stays pure.

The table PACKAGES says all that a package may import of ours; CONTRIBUTING.md says why. A new file belongs to the
package of its folder, or stands in the table itself. Imports inside functions count too.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from collections import defaultdict

import pytest

from tests.source import ROOT, Import, imports, package

LEAVES = frozenset({"errors", "secret", "config", "deadlines", "shares", "rates", "events", "monitoring"})
"""Whatever stands beside the one path: every name but wire may use them."""

BELOW_THE_SERVICE = LEAVES | {"authoring", "wire", "catalog"}

PACKAGES: dict[str, frozenset[str]] = {
    # leaves
    "errors": frozenset(),
    "secret": frozenset(),
    "config": frozenset({"errors", "secret"}),
    "setting_rules": frozenset({"config", "errors", "rates"}),
    "settings": frozenset({"config", "errors", "secret", "setting_rules"}),
    "deadlines": frozenset({"errors"}),
    "shares": frozenset(),
    "rates": frozenset(),
    "signals": frozenset({"descriptors"}),
    "descriptors": frozenset(),
    "sealing": frozenset({"config", "errors", "secret", "wire"}),
    "events": frozenset({"errors", "deadlines"}),
    "monitoring": frozenset({"errors", "config", "deadlines", "events"}),
    # values
    "wire": frozenset({"errors"}),
    "catalog": frozenset({"errors", "wire"}),
    "authoring": frozenset({"errors", "wire"}),
    # what is kept
    "drivers": frozenset({"errors", "deadlines"}),
    "storage": frozenset({"errors", "secret", "config", "deadlines", "drivers", "events", "rates"}),
    # documents
    "search": LEAVES | {"storage", "drivers"},
    "ingest": LEAVES | {"search", "storage"},
    # what can be called
    "tools": BELOW_THE_SERVICE | {"search", "storage"},
    "resources": BELOW_THE_SERVICE | {"storage"},
    "prompts": BELOW_THE_SERVICE,
    "completions": BELOW_THE_SERVICE | {"resources", "prompts"},
    "turns": BELOW_THE_SERVICE | {"tools"},
    "jobs": LEAVES | {"storage", "wire"},
    "tasks": BELOW_THE_SERVICE | {"storage", "jobs"},
    "idempotency": BELOW_THE_SERVICE | {"storage"},
    "service": BELOW_THE_SERVICE | {"tools", "resources", "prompts", "completions", "turns", "tasks"},
    # the path down to it
    "messages": LEAVES | {"service", "jobs", "idempotency", "wire", "storage"},
    "gateway": LEAVES | {"messages", "wire"},
    # several processes
    "supervision": frozenset({"config", "monitoring", "signals"}),
    "supervisor": frozenset({"config", "descriptors", "gateway", "monitoring", "supervision"}),
    # the client and the command line
    "client": frozenset({"errors", "deadlines", "wire"}),
    "commands": LEAVES
    | {
        "app",
        "sealing",
        "supervision",
        "supervisor",
        "settings",
        "signals",
        "authoring",
        "client",
        "drivers",
        "gateway",
        "ingest",
        "search",
        "storage",
        "tools",
    },
    "cli": frozenset({"commands", "descriptors", "errors", "__init__"}),
    "__main__": frozenset({"cli"}),
    "__init__": frozenset({"authoring", "errors"}),
}
"""Package or module -> those of ours that it may import."""

ROOTS = frozenset({"app", "assembly"})
"""The composition root: these two know everybody and are not listed."""

PURE = (
    "mcpd.wire.",
    "mcpd.gateway.rest.routes",
    "mcpd.gateway.rest.problems",
    "mcpd.errors",
    "mcpd.catalog",
    "mcpd.rates",
    "mcpd.setting_rules",
    "mcpd.resources.templates",
    "mcpd.drivers.resp",
    "mcpd.drivers.redis.address",
    "mcpd.drivers.redis.errors",
    "mcpd.drivers.elasticsearch_api",
    "mcpd.drivers.elasticsearch_bulk",
    "mcpd.drivers.elasticsearch_errors",
    "mcpd.drivers.elasticsearch.sniffing",
    "mcpd.storage.redis.keys",
    "mcpd.storage.task_states",
    "mcpd.monitoring.merging",
    "mcpd.supervision.messages",
    "mcpd.supervision.parts",
    "mcpd.storage.session_records",
    "mcpd.search.chunking",
    "mcpd.search.outline",
    "mcpd.search.hashing",
    "mcpd.storage.sqlite.codes",
    "mcpd.search.fusion",
    "mcpd.ingest.formats",
    "mcpd.ingest.encoding",
    "mcpd.ingest.hypertext",
    "mcpd.ingest.extraction",
    "mcpd.ingest.ignore",
)
IMPURE = {
    "asyncio", "io", "logging", "multiprocessing", "os", "pathlib", "random", "secrets", "select", "shutil", "signal",
    "socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time", "trio", "urllib.request", "uuid",
}  # fmt: skip
"""What a pure module may not import: clocks, randomness, I/O, concurrency. Time and randomness are arguments there."""

OWNERS: dict[str, tuple[str, ...]] = {
    "quart": ("mcpd.gateway.",),
    "quart_trio": ("mcpd.gateway.",),
    "hypercorn": ("mcpd.gateway.server.hypercorn", "mcpd.gateway.server.http2"),
    "h11": ("mcpd.gateway.server.http11", "mcpd.gateway.server.heads"),
    "wsproto": ("mcpd.gateway.server.rfc6455",),
    "graphql": ("mcpd.gateway.",),
    "httpx": ("mcpd.drivers.",),
    "trio_websocket": ("mcpd.client",),
    "prometheus_client": ("mcpd.monitoring.", "mcpd.gateway.operations"),
    "jsonschema_rs": ("mcpd.wire.schema",),
    "click": ("mcpd.cli", "mcpd.commands.calling", "mcpd.commands."),
    "sqlite3": ("mcpd.drivers.", "mcpd.storage.sqlite.errors"),
}
"""Library -> the only modules that may import it."""

IMPORT_NAMES = {"graphql-core": "graphql"}
"""Distributions whose import name is not their own name with underscores."""

BOXES = (
    "mcpd.gateway.app",
    "mcpd.gateway.streamable_http",
    "mcpd.gateway.websocket",
    "mcpd.gateway.stdio",
    "mcpd.gateway.rest",
    "mcpd.messages.manager.MessageManager",
    "mcpd.service.McpService",
    "mcpd.tools.manager.ToolManager",
    "mcpd.tools.registry.ToolRegistry",
    "mcpd.resources.manager.ResourceManager",
    "mcpd.resources.cache.ResourceCache",
    "mcpd.prompts.manager.PromptManager",
    "mcpd.prompts.loader.PromptLoader",
    "mcpd.storage.sqlite",
    "mcpd.storage.memory",
    "mcpd.storage.redis",
    "mcpd.drivers.redis",
    "mcpd.monitoring.metrics.Metrics",
)
"""Each box of the architecture picture that exists so far is exactly one importable name."""

ALL = [found for source in package() for found in imports(source)]
OURS = [found for found in ALL if found.imported.split(".")[0] == "mcpd"]
FOREIGN = [found for found in ALL if found.imported.split(".")[0] != "mcpd"]


def package_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def told(found: Import) -> str:
    return f"{found.importer}:{found.line} imports {found.imported}"


def test_every_package_is_in_the_table() -> None:
    packages = {package_of(source.module) for source in package()} - ROOTS
    assert packages <= set(PACKAGES), f"give these packages a line in PACKAGES: {sorted(packages - set(PACKAGES))}"


def test_a_package_imports_only_what_its_line_allows() -> None:
    wrong = []
    for found in OURS:
        here, there = package_of(found.importer), package_of(found.imported)
        if here != there and here not in ROOTS and there not in PACKAGES[here]:
            wrong.append(told(found))
    assert not wrong, "\n".join(wrong)


def test_only_one_module_names_backends() -> None:
    """Which stores there are is the configuration's to say and `storage.open`'s to know."""
    backends = ("mcpd.storage.sqlite", "mcpd.storage.memory", "mcpd.storage.redis", "mcpd.storage.elasticsearch")
    wrong = []
    for found in OURS:
        home = next((one for one in backends if f"{found.imported}.".startswith(f"{one}.")), None)
        if home is not None and not f"{found.importer}.".startswith((f"{home}.", "mcpd.storage.open.")):
            wrong.append(told(found))
    assert not wrong, "\n".join(wrong)


def test_the_table_itself_has_no_cycle() -> None:
    assert not cycle({name: set(allowed) for name, allowed in PACKAGES.items()})


def test_modules_import_each_other_without_cycles() -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for found in OURS:
        if found.imported != found.importer and not (found.importer == "mcpd" and found.typing_only):
            graph[found.importer].add(found.imported)
    assert not cycle(graph)


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Return the nodes that are left when all without unfinished neighbours have been taken away: a cycle, or none."""
    left = {node: set(targets) for node, targets in graph.items()}
    while free := {node for node, targets in left.items() if not targets & left.keys()}:
        for node in free:
            del left[node]
    return sorted(left)


def test_the_search_for_cycles_finds_one() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}})
    assert not cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()})


def test_no_module_escapes_through_type_checking() -> None:
    """Our own modules are imported for real or not at all; the lazy package front alone names its exports for types."""
    wrong = [told(found) for found in OURS if found.typing_only and found.importer != "mcpd"]
    assert not wrong, "\n".join(wrong)


def test_nothing_imports_asyncio_or_anyio() -> None:
    wrong = [told(found) for found in FOREIGN if found.imported.split(".")[0] in {"asyncio", "anyio", "sniffio"}]
    assert not wrong, "\n".join(wrong)


def test_each_library_is_touched_only_by_its_owners() -> None:
    wrong = []
    for found in FOREIGN:
        owners = OWNERS.get(found.imported.split(".")[0])
        if owners is not None and not f"{found.importer}.".startswith(tuple(f"{o.rstrip('.')}." for o in owners)):
            wrong.append(told(found))
    assert not wrong, "\n".join(wrong)


def test_every_foreign_import_is_a_declared_dependency() -> None:
    """An import that works only because another package brought it along breaks on that package's next release."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        declared = [line.split("==")[0] for line in tomllib.load(file)["project"]["dependencies"]]
    allowed = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in declared} | set(sys.stdlib_module_names)
    wrong = [told(found) for found in FOREIGN if found.imported.split(".")[0] not in allowed]
    assert not wrong, "\n".join(wrong)


def test_pure_modules_import_no_clock_no_io_and_no_concurrency() -> None:
    wrong = []
    for found in FOREIGN:
        name = found.imported
        pure = f"{found.importer}.".startswith(tuple(f"{p.rstrip('.')}." for p in PURE))
        if pure and (name in IMPURE or name.split(".")[0] in IMPURE):
            wrong.append(told(found))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", ["mcpd", "mcpd.authoring", "mcpd.tools.worker"])
def test_what_a_worker_process_loads_leaves_trio_out(module: str) -> None:
    """A worker process is ready in tens of milliseconds because it loads msgspec and the tool, and nothing more."""
    program = f"import sys, {module}; print(*sorted({{'trio', 'quart', 'hypercorn', 'httpx'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_a_supervisor_loads_neither_an_event_loop_nor_a_transport() -> None:
    """It starts processes at any time, so it has no threads; and it is one more process, so it is small."""
    program = (
        "import sys, mcpd.supervisor; print(*sorted({'trio', 'quart', 'hypercorn', 'httpx'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_the_embedded_default_loads_no_backend_of_a_server_that_must_be_configured() -> None:
    """Each of its modules costs one or two milliseconds of every start."""
    program = "import sys, mcpd.app; print(*(n for n in sys.modules if n.startswith(('httpx', 'mcpd.')))) "
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    loaded = set(done.stdout.split())
    assert "mcpd.storage.sqlite.documents" in loaded
    servers = ("redis", "elasticsearch")
    others = ("httpx", *(f"mcpd.{package}.{server}" for package in ("drivers", "storage") for server in servers))
    assert [name for name in loaded if name.startswith(others)] == []


@pytest.mark.parametrize("box", BOXES)
def test_every_box_of_the_picture_is_one_importable_name(box: str) -> None:
    owner, _, name = box.rpartition(".")
    if name[0].isupper():
        assert getattr(importlib.import_module(owner), name).__module__ == owner
    else:
        importlib.import_module(box)
