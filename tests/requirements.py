"""The map from protocol requirements to the tests that guard them: `requirements.toml`.

An id is a rule of the Model Context Protocol as this project numbers them (RPC-2, HDR-7, ...), in the order of the
specification's chapters; code and tests cite it. Each entry says how binding the rule is (`M` must, `S` should, `O`
may, `C` checked by the official suite, `R` our own choice, `-` a plain statement) and exactly one of `tests`, `later`
and `not_ours` with a reason. Paths under `tests/conversations/` are transcripts; all others are `path::test`.

`python -m tests.requirements` prints what has no test; `--write` takes over the tests whose docstrings cite an id.
`test_requirements.py` keeps the map complete and true.
"""

from __future__ import annotations

import argparse
import ast
import re
import tomllib
from collections import defaultdict
from functools import cache
from typing import Any

from tests import source
from tests.source import ROOT

MAP = ROOT / "tests" / "requirements.toml"
CITATION = re.compile(r"\b([A-Z][A-Z0-9]{1,4})-(\d+)(?:\.\.(\d+))?")
FAMILIES = (
    "RPC", "ERA", "LAD", "HDR", "GET", "IO", "WS", "STA", "RES", "DIS", "TOOL", "RSC", "PRM", "CMP", "PAG", "RSP",
    "CAN", "PRG", "LOG", "SUB", "MRT", "JSC", "SEC", "TSK", "EXT", "INI", "VER", "SES", "STR", "RSM", "S2C", "BAT",
    "SIE", "PUB",
)  # fmt: skip
"""The rules' families, in the specification's order: base and eras, 2026-07-28, the revisions before it."""


@cache
def entries() -> dict[str, dict[str, Any]]:
    """Return id -> entry, as written."""
    with MAP.open("rb") as file:
        return tomllib.load(file)


def cited(text: str) -> set[str]:
    """Return the ids that a text cites; `RPC-1..3` cites three."""
    found = set()
    for family, first, last in CITATION.findall(text):
        if family in FAMILIES:
            found |= {f"{family}-{number}" for number in range(int(first), int(last or first) + 1)}
    return found


@cache
def citations() -> dict[str, set[str]]:
    """Return test -> the ids that its docstring cites (for a transcript: its text), for every test there is."""
    found: dict[str, set[str]] = {}
    for file in source.tests():
        if file.path.rpartition("/")[2].startswith("test_"):
            for name, function in source.functions(file):
                if name.rpartition(".")[2].startswith("test_"):
                    test = f"{file.path}::{name.replace('.', '::')}"
                    found[test] = cited(ast.get_docstring(function) or "")
    for path in sorted((ROOT / "tests" / "conversations").glob("**/*.txt")):
        found[path.relative_to(ROOT).as_posix()] = cited(path.read_text(encoding="utf-8"))
    return found


def unmapped() -> list[str]:
    """Return the ids that have neither a test nor a reason to have none."""
    return [
        name for name, entry in entries().items() if not any(entry.get(key) for key in ("tests", "later", "not_ours"))
    ]


def rewritten() -> str:
    """Return the map with `tests` of each id taken from the docstrings; reasons stay as they are."""
    by_id: dict[str, list[str]] = defaultdict(list)
    for test, ids in citations().items():
        for name in ids:
            by_id[name].append(test)
    lines = [HEADER]
    for name, entry in entries().items():
        lines.append(f"[{name}]\ntag = {quoted(entry['tag'])}")
        reasons = [key for key in ("later", "not_ours") if key in entry]
        lines += [f"{key} = {quoted(entry[key])}" for key in reasons]
        if not reasons:
            lines.append("tests = [" + "".join(f"\n    {quoted(test)}," for test in sorted(by_id[name])) + "\n]")
        lines.append("")
    return "\n".join(lines)


HEADER = (
    "# Protocol requirement -> its tests. Explained in tests/requirements.py; `just requirements --write` adds tests.\n"
)


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def main() -> None:
    """Print what is missing, or write the map anew first."""
    parser = argparse.ArgumentParser(prog="python -m tests.requirements", description=main.__doc__)
    parser.add_argument("--write", action="store_true", help="take over tests whose docstrings cite an id")
    if parser.parse_args().write:
        MAP.write_text(rewritten(), encoding="utf-8")
        entries.cache_clear()
    missing = unmapped()
    print(f"{len(entries()) - len(missing)} of {len(entries())} requirements are mapped; without a test:")
    print(*missing, sep="\n")


if __name__ == "__main__":
    main()
