"""What people and machines rely on around the code: README, justfile, locks, metrics, licences.

Documentation is tested like code: a table that is generated is compared with its source, a command that is shown has to
exist, a part that is installed has to be explained.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from packaging.markers import Marker, default_environment
from packaging.utils import canonicalize_name

from mcpd.authoring.declarations import ToolDeclaration, load
from mcpd.cli import cli
from tests import readme
from tests.source import ROOT

MAX_BASE_DISTRIBUTIONS = 33
RECIPES = {
    "install", "run", "test", "test-fast", "lint", "format", "types", "conformance", "bench", "bench-core",
    "bench-redis", "bench-elasticsearch", "bench-with-redis", "bench-workers", "bench-search", "bench-quality", "chaos",
    "soak", "readme", "requirements", "break-laws", "lock", "check",
}  # fmt: skip
LINUX = {
    "os_name": "posix", "sys_platform": "linux", "platform_system": "Linux", "implementation_name": "cpython",
    "platform_python_implementation": "CPython", "extra": "",
}  # fmt: skip
METRIC = re.compile(r"\bmcpd_[a-z_]+\b")
METRIC_SUFFIX = re.compile(r"_(bucket|sum|count|created)$")


def toml(name: str) -> dict[str, Any]:
    with (ROOT / name).open("rb") as file:
        return tomllib.load(file)


def pins() -> dict[str, str]:
    """Return name -> version of what pyproject.toml asks for, extras included."""
    project = toml("pyproject.toml")["project"]
    extras = project["optional-dependencies"].values()
    whole = [*project["dependencies"], *(line for extra in extras for line in extra)]
    lines = [line.partition(";")[0].strip() for line in whole]
    assert all(line.count("==") == 1 for line in lines), "every dependency is pinned exactly"
    return {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines}


def base_install() -> dict[str, str]:
    """Return name -> version of what a plain install brings on CPython for Linux, from poetry.lock."""
    here = {name: str(value) for name, value in default_environment().items()} | LINUX
    return {
        canonicalize_name(package["name"]): package["version"]
        for package in toml("poetry.lock")["package"]
        if "main" in package["groups"] and applies(package.get("markers"), here)
    }


def applies(marker: str | dict[str, str] | None, here: dict[str, str]) -> bool:
    text = marker.get("main") if isinstance(marker, dict) else marker
    return text is None or Marker(text).evaluate(here)


def requirements(name: str) -> dict[str, str]:
    found = re.findall(r"^([\w.\-]+)==([^\s;]+)", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    return {canonicalize_name(distribution): version for distribution, version in found}


def parts_table() -> dict[str, tuple[str, str, str]]:
    """Return name -> (version, licence, reason) of the README's table of parts."""
    rows = re.search(r"\| Distribution \|.*?\n\|[-|]+\|\n((?:\|.*\n)+)", readme.text())
    assert rows
    cells = [[cell.strip() for cell in row.strip("|\n").split("|")] for row in rows[1].splitlines()]
    return {canonicalize_name(name): (version, licence, reason) for name, version, licence, reason in cells}


def test_the_generated_tables_of_the_readme_are_fresh() -> None:
    """Every setting and every metric is documented, and nothing else; `just readme` mends this."""
    for name, generate in readme.SECTIONS.items():
        assert readme.section(name) == generate(), f"run `just readme`: section {name} is stale"


def test_every_metric_anybody_uses_is_declared() -> None:
    declared = {name for name, _, _ in readme.declared_metrics()}
    users = [ROOT / "README.md", *dashboards()]
    used = {METRIC_SUFFIX.sub("", name) for path in users for name in METRIC.findall(path.read_text(encoding="utf-8"))}
    assert used <= declared, f"not declared in mcpd/monitoring/metrics.py: {sorted(used - declared)}"


def dashboards() -> list[Path]:
    """Return every dashboard, alert and recording rule of the repository."""
    folders = (ROOT / "grafana", ROOT / "prometheus")
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]


def test_every_metric_says_its_unit_or_that_it_counts() -> None:
    for name, labels, documentation in readme.declared_metrics():
        assert documentation.endswith("."), name
        assert re.match(r"(mcpd|mcp_server)_", name), name
        if not name.endswith(("_seconds", "_total", "_info")):
            assert {"state", "transport", "store"}.issuperset(labels), f"{name}: a gauge of things, by state and where"


def commands(line: str) -> list[list[str]]:
    """Return the words of each `mcpd ...` in a shell line."""
    parts = [part.strip() for part in re.split(r"&&|\|", line)]
    return [shlex.split(part)[1:] for part in parts if Path(part.split()[0]).name == "mcpd"]


def readme_commands() -> list[list[str]]:
    return [words for line in readme.shell_lines() for words in commands(line)]


def test_the_readme_shows_each_group_of_commands() -> None:
    assert {words[0] for words in readme_commands()} >= {"serve", "call", "keys"}


@pytest.mark.parametrize("words", readme_commands(), ids=" ".join)
def test_a_command_shown_in_the_readme_exists_with_its_options(words: list[str]) -> None:
    """Parsed by the command line itself, which refuses what it does not know; nothing is run."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, click.Context(found, info_name=name, parent=context)
    command.parse_args(context, list(words))


def test_the_set_up_commands_are_each_one_line() -> None:
    serve, tests = (readme.marked_block("command", name).strip() for name in ("serve", "tests"))
    assert serve.endswith("mcpd serve")
    assert "pytest" in tests
    for command in (serve, tests):
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
        assert "\n" not in command


def test_the_example_of_the_readme_declares_its_tools(tmp_path: Path) -> None:
    example = tmp_path / "words.py"
    example.write_text(readme.marked_block("example", "tools"), encoding="utf-8")
    tools = [item for item in load(str(example)) if isinstance(item, ToolDeclaration)]
    assert [item.name for item in tools] == ["word_count", "longest_word", "greet"]


def recipes() -> dict[str, tuple[str, list[str]]]:
    """Return recipe -> (comment line above it, its lines) of the justfile."""
    found: dict[str, tuple[str, list[str]]] = {}
    current, previous = "", ""
    for line in (ROOT / "justfile").read_text(encoding="utf-8").splitlines():
        head = re.match(r"^([a-z][a-z0-9-]*)(?: [^:=]*)?:(?!=)", line)
        if head:
            current = head[1]
            found[current] = (previous, [])
        elif line.startswith("    ") and current:
            found[current][1].append(line.strip())
        previous = line
    return found


def test_every_recipe_has_one_line_of_comment() -> None:
    wrong = [name for name, (comment, _) in recipes().items() if not comment.startswith("# ")]
    assert not wrong


def test_the_justfile_has_the_recipes_people_know() -> None:
    assert recipes().keys() >= RECIPES


def test_every_module_and_script_that_a_recipe_runs_exists() -> None:
    missing = []
    for name, (_, lines) in recipes().items():
        text = "\n".join(lines)
        for module in re.findall(r"-m ((?:tests|mcpd)[\w.]*)", text):
            path = ROOT.joinpath(*module.split("."))
            if not (path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()):
                missing.append(f"{name}: {module}")
        missing += [f"{name}: {path}" for path in re.findall(r"\.ci/[\w.]+", text) if not (ROOT / path).is_file()]
        missing += [f"{name}: {path}" for path in re.findall(r"pytest (tests/\w+)", text) if not (ROOT / path).exists()]
    assert not missing, "\n".join(missing)


def test_the_base_install_stays_small() -> None:
    """Any addition needs a removal."""
    assert len(base_install()) <= MAX_BASE_DISTRIBUTIONS


def test_every_part_is_explained_in_the_readme() -> None:
    table = parts_table()
    assert {name: version for name, (version, _, _) in table.items()} == base_install()
    assert all(licence and reason for _, licence, reason in table.values())


def test_the_locks_hold_what_the_project_asks_for() -> None:
    locked: dict[str, str] = {
        canonicalize_name(package["name"]): package["version"] for package in toml("poetry.lock")["package"]
    }
    assert {name: locked.get(name) for name in pins()} == pins()
    assert base_install().items() <= requirements("requirements.lock").items()
    assert requirements("requirements.lock").items() <= requirements("requirements.test.lock").items()
    assert pins().items() <= requirements("requirements.test.lock").items()


def test_every_locked_file_has_a_hash_and_no_address() -> None:
    """A lock says what is installed; from where is the business of the machine that installs."""
    for name in ("requirements.lock", "requirements.test.lock"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "://" not in text
        assert "--index" not in text
        assert all("--hash=sha256:" in entry for entry in re.split(r"\n(?=\S)", text.strip()))
    assert not any("source" in package for package in toml("poetry.lock")["package"])
    for path in ROOT.glob("tests/*/package-lock.json"):
        assert '"resolved"' not in path.read_text(encoding="utf-8")


def test_the_build_backend_is_pinned() -> None:
    assert all("==" in line for line in toml("pyproject.toml")["build-system"]["requires"])


def test_no_extra_is_empty() -> None:
    assert all(toml("pyproject.toml")["project"]["optional-dependencies"].values())


def test_the_version_is_the_same_everywhere() -> None:
    import mcpd

    version = toml("pyproject.toml")["project"]["version"]
    assert mcpd.__version__ == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("script", [".ci/run", ".ci/lint"])
def test_a_script_of_continuous_integration_parses(script: str) -> None:
    done = subprocess.run(["bash", "-n", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
