"""Breaks a rule, one after the other, and shows that its test turns red: `just break-laws`.

A green test proves nothing until it has been seen red. `breaks.toml` names one-line breaks of protocol rules that bind
(tag M in `tests/requirements.toml`), `code_breaks.toml` those of laws and promises of the code (`why`): what goes wrong
then, in which line of the package, and which tests have to notice. This program makes private copies of the repository
in a temporary folder, sees the chosen tests green there, and then applies, tests and takes back each break, `COPIES` at
a time; the repository itself is never touched.

Run by hand and never by a test run; `test_breaks.py` keeps the table true. Deliberately not a mutation tester: a break
is chosen because somebody could have written it, not made up by a machine.

Laws: red means that the named test ran and failed (pytest's exit code 1, no error around it) because of what it saw,
in a package that can still be imported; anything else is a bad break. Each named test is run by itself, so that one
that notices cannot hide another that does not. Compiled files are written by the unbroken run alone, and that of a
broken file goes before it is broken: a stale one could hide the break. Temporary files stay in the copy.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache, partial
from importlib.util import cache_from_source
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from tests.source import ROOT

TABLES = tuple(Path(__file__).with_name(name) for name in ("breaks.toml", "code_breaks.toml"))
COPIES = 2
"""Each is broken by itself: so many breaks are tried at a time."""
MAX_RUN_S = 120.0
"""Of an import or a run of one test; a break that makes a test hang is a bad one."""
MAX_TEST_S = 15.0
"""Of each further test of a run."""
_COPIED = ("mcpd", "tests")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "node_modules", "results", ".*")
_PYTEST = ("-m", "pytest", "-p", "no:cacheprovider", "-q", "--tb=short")
_VERDICT = re.compile(r"^(FAILED|ERROR) (\S+)(?:.*? - (?:[\w.]+\.)?(\w+))?", re.MULTILINE)
_CRASHES = frozenset({"AttributeError", "ImportError", "ModuleNotFoundError", "NameError", "SyntaxError", "TypeError"})
"""What a test ends with when the broken line does not work at all, rather than wrongly."""


class Break(NamedTuple):
    """One way to be wrong: `line`, which stands once in `file`, becomes `instead`; each of `tests` has to notice.

    `ids` are the protocol's rules that it breaks; without any, `why` says which law or promise of the code.
    """

    name: str
    ids: tuple[str, ...]
    file: str
    line: str
    instead: str
    tests: tuple[str, ...]
    why: str = ""


@cache
def breaks() -> tuple[Break, ...]:
    """Return the tables, in their order."""
    rows = [row for table in TABLES for row in tomllib.loads(table.read_text(encoding="utf-8"))["break"]]
    return tuple(Break(**row | {"ids": tuple(row.get("ids", ())), "tests": tuple(row["tests"])}) for row in rows)


def matching(word: str) -> list[Break]:
    """Return the breaks that have `word` in their name, an id, reason, file or test; all of them for ""."""
    wanted = word.lower()
    return [one for one in breaks() if wanted in " ".join((one.name, *one.ids, one.why, one.file, *one.tests)).lower()]


def broken_text(text: str, one: Break) -> str:
    """Return `text`, that of the break's file, with the break in it. Raises: ValueError unless its line stands once."""
    lines = text.splitlines(keepends=True)
    places = [number for number, line in enumerate(lines) if line.strip() == one.line]
    if len(places) != 1:
        raise ValueError(f"{one.name}: {one.file} has its line {len(places)} times")
    lines[places[0]] = lines[places[0]].replace(one.line, one.instead)
    return "".join(lines)


class Copy:
    """A private copy of the repository, as far as tests need it."""

    def __init__(self, root: Path) -> None:
        """Make the folder `root` and fill it."""
        self._root = root
        root.mkdir()
        for name in _COPIED:
            shutil.copytree(ROOT / name, root / name, ignore=_LEFT_OUT)
        shutil.copy(ROOT / "pyproject.toml", root)
        self._environment = os.environ | {"PYTHONPATH": str(root), "COLUMNS": "300", "NO_COLOR": "1"}
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def freeze(self) -> None:
        """Compile the package, then no more files to disk; those there are go on being used."""
        self._python("-m", "compileall", "-q", "mcpd")
        self._environment["PYTHONDONTWRITEBYTECODE"] = "1"

    @contextmanager
    def broken(self, one: Break) -> Iterator[None]:
        """Apply a break for a while."""
        path = self._root / one.file
        text = path.read_text(encoding="utf-8")
        Path(cache_from_source(path)).unlink(missing_ok=True)
        path.write_text(broken_text(text, one), encoding="utf-8")
        try:
            yield
        finally:
            path.write_text(text, encoding="utf-8")

    def test(self, *tests: str) -> tuple[int, str]:
        """Run tests up to the first failure; return pytest's exit code and what it said."""
        limit_s = MAX_RUN_S + MAX_TEST_S * (len(tests) - 1)
        return self._python(*_PYTEST, "-x", f"--basetemp={self._root / 'temporary'}", *tests, limit_s=limit_s)

    def imports(self, file: str) -> bool:
        """True when the module of `file` can be imported, from this copy."""
        module = file.removesuffix(".py").replace("/", ".")
        code, said = self._python("-c", f"import {module} as found; print(found.__file__)")
        return code == 0 and Path(said.strip()) == self._root / file

    def _python(self, *arguments: str, limit_s: float = MAX_RUN_S) -> tuple[int, str]:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=self._root, env=self._environment, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        with process:
            try:
                said, _ = process.communicate(timeout=limit_s)
            except subprocess.TimeoutExpired:
                said = f"still running after {limit_s:g} s"
            finally:
                with suppress(ProcessLookupError):  # a broken server may have outlived its test
                    os.killpg(process.pid, signal.SIGKILL)
        return process.returncode, said


def judge(copy: Copy, one: Break) -> str:
    """Return "" when each test of the break turns red, else what happened instead."""
    try:
        with copy.broken(one):
            if not copy.imports(one.file):
                return f"bad break: {one.file} cannot be imported with it"
            faults = [fault_of(test, *copy.test(test)) for test in one.tests]
    except ValueError as error:
        return f"bad break: {error}"
    return "\n".join(filter(None, faults))


def fault_of(test: str, code: int, said: str) -> str:
    """Return "" when pytest's run of one test shows that it noticed, else what is wrong with that."""
    if code == 0:
        return f"STILL GREEN: {test}"
    verdicts = _VERDICT.findall(said)
    crashed = any(what == "ERROR" or kind in _CRASHES for what, _, kind in verdicts)
    failed = any(what == "FAILED" and node.split("[")[0] == test for what, node, _ in verdicts)
    if code != 1 or crashed or not failed:
        return f"bad break: {test} did not fail by what it saw (exit code {code}):\n{said}"
    return ""


def run(chosen: Sequence[Break]) -> int:
    """Show each break red, one line each; return how many were not."""
    with tempfile.TemporaryDirectory(prefix="mcpd-laws-") as folder, ThreadPoolExecutor(COPIES) as pool:
        roots = [Path(folder).resolve() / str(number) for number in range(COPIES)]
        copies = [Copy(root) for root in roots]
        tests = list(dict.fromkeys(test for one in chosen for test in one.tests))
        parts = [sorted(tests)[number::COPIES] for number in range(COPIES)]
        for code, said in pool.map(_unbroken, copies, parts):
            if code != 0:
                print(said, "\nThese tests are not green without any break; nothing was broken.", sep="")
                return len(chosen)
        print(f"green  {len(tests)} tests, unbroken", flush=True)
        free = SimpleQueue[Copy]()
        for copy in copies:
            free.put(copy)
        return sum(not red for red in pool.map(partial(show, free), chosen))


def _unbroken(copy: Copy, tests: Sequence[str]) -> tuple[int, str]:
    said = copy.test(*tests) if tests else (0, "")
    copy.freeze()
    return said


def show(free: SimpleQueue[Copy], one: Break) -> bool:
    """Judge one break in a copy that is free, and print its line; True when it is red."""
    copy = free.get()
    try:
        fault = judge(copy, one)
    finally:
        free.put(copy)
    names = ", ".join(test.replace("tests/", "", 1) for test in one.tests)
    line = f"{'NOT RED' if fault else 'red'}  {'+'.join(one.ids) or 'code':<14}  {one.name}: {names}"
    print(*filter(None, (line, fault)), sep="\n", flush=True)
    return not fault


def main() -> None:
    """Break the named rules one after the other; exit with 0 only if each one's tests turn red."""
    parser = argparse.ArgumentParser(prog="python -m tests.laws.break_laws", description=main.__doc__)
    parser.add_argument(
        "--only", default="", metavar="WORD", help="breaks with WORD in their name, ids, reason, file or tests"
    )
    chosen = matching(parser.parse_args().only)
    if not chosen:
        parser.error("no break has that word")
    started = time.monotonic()
    bad = run(chosen)
    print(f"{len(chosen) - bad} of {len(chosen)} breaks turn their tests red, in {time.monotonic() - started:.0f} s")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
