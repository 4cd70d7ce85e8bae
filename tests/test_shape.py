"""The shape of the source: sizes, docstrings, names. Numbers and words come from the server style in CONTRIBUTING.md.

Exceptions are named here, each with its reason; one that no longer applies fails, so that the lists only hold what is
true. Deliberately not a linter: what ruff and mypy can see is theirs.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from statistics import median
from typing import TypeGuard

from tests import source
from tests.source import Function, Source

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
MEDIAN_FUNCTION_LINES = 6
MOST_FUNCTION_LINES = 25
MAX_PARAMETERS = 6
DOCSTRING_LINES = range(4, 26)

LONG_FILES: dict[str, str] = {}
"""Path -> why this file may have more lines."""

LONG_DOCSTRINGS: dict[str, str] = {
    "mcpd/errors.py": "draws the whole error tree",
    "mcpd/storage/redis/keys.py": "is the table of all keys",
}
"""Path -> why its module docstring may be longer."""

LONG_FUNCTIONS: dict[str, str] = {}
"""`module:function` -> why it may have more lines."""

MANY_PARAMETERS: dict[str, str] = {
    "mcpd.assembly:_messages": "hands the composition root's parts to those that take them",
    "mcpd.errors:_row": "one parameter for each column of the table",
    "mcpd.gateway.streamable_http:StreamableHttp.__init__": "takes its neighbours from the composition root",
    "mcpd.messages.sessions:Sessions.__init__": "takes its neighbours from the composition root",
    "mcpd.messages.manager:MessageManager.__init__": "takes its neighbours from the composition root",
}
"""`module:function` -> why it may have more parameters."""

TIMEOUT_PARAMETERS: dict[str, str] = {
    "mcpd.commands.call:call": "the flag of `mcpd call`, sent to the server, which applies it",
    "mcpd.client:Client.call_tool": "sent to the server, which applies it",
    "mcpd.client:Client.request": "sent to the server, which applies it",
    "mcpd.client:_meta": "sent to the server, which applies it",
    "mcpd.gateway.asgi:read_body": "bounds the reading of a body, before there is a call",
    "mcpd.monitoring.logs:Logs.close": "a thread's wait when the process ends, after the last call",
    "mcpd.monitoring.logs:Logs.flush": "a thread's wait when the process ends, after the last call",
}
"""`module:function` -> why its parameter is not a second deadline of a call."""

VERSION_HOME = "mcpd/wire/versions.py"
FORBIDDEN_FILES = re.compile(r"^(utils?|helpers?|common|misc|base_.*)\.py$")
FORBIDDEN_CLASSES = re.compile(r"^(Abstract|Base)[A-Z]|(Impl|Base)$")
VERSION = re.compile(r"20\d\d-\d\d-\d\d")


def body_lines(function: Function, *, docstring: bool) -> int:
    """Count lines from the first statement (or the docstring) to the last."""
    body = function.body
    if not docstring and ast.get_docstring(function, clean=False) is not None:
        body = body[1:]
    return (function.end_lineno or function.lineno) - body[0].lineno + 1 if body else 0


def parameters(function: Function) -> int:
    names = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    return len([a for a in names if a.arg not in {"self", "cls"}])


def all_functions() -> Iterator[tuple[str, Function]]:
    for file in source.package():
        for name, function in source.functions(file):
            yield f"{file.module}:{name}", function


def unexcused(found: Iterable[str], excused: dict[str, str]) -> str:
    """Return the findings without an excuse, and the excuses without a finding, as text; empty when all is well."""
    found = set(found)
    rows = sorted(found - excused.keys())
    return "\n".join(rows + [f"no longer needs an exception: {name}" for name in sorted(excused.keys() - found)])


def test_files_fit_in_a_head() -> None:
    long = {file.path for file in source.package() if file.text.count("\n") > MAX_FILE_LINES}
    assert not unexcused(long, LONG_FILES)


def test_no_function_is_longer_than_a_screen() -> None:
    long = {name for name, function in all_functions() if body_lines(function, docstring=True) > MAX_FUNCTION_LINES}
    assert not unexcused(long, LONG_FUNCTIONS)


def test_functions_are_short_as_a_rule() -> None:
    sizes = sorted(body_lines(function, docstring=False) for _, function in all_functions())
    assert median(sizes) <= MEDIAN_FUNCTION_LINES
    assert sizes[int(len(sizes) * 0.9)] <= MOST_FUNCTION_LINES


def test_functions_take_few_parameters() -> None:
    many = {name for name, function in all_functions() if parameters(function) > MAX_PARAMETERS}
    assert not unexcused(many, MANY_PARAMETERS)


def test_every_file_says_what_it_is() -> None:
    """4 to 25 lines; `__init__`, `__main__` and files of tests may be shorter, but never silent."""
    wrong, long = [], set()
    for file in source.package():
        lines = len((ast.get_docstring(file.tree) or "").splitlines())
        least = 1 if file.path.endswith(("__init__.py", "__main__.py")) else DOCSTRING_LINES.start
        if lines < least:
            wrong.append(f"{file.path}: {lines} lines of docstring")
        elif lines >= DOCSTRING_LINES.stop:
            long.add(file.path)
    wrong += [f"{file.path}: no docstring" for file in source.tests() if ast.get_docstring(file.tree) is None]
    assert not wrong, "\n".join(wrong)
    assert not unexcused(long, LONG_DOCSTRINGS)


def public_parts(file: Source) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    for node in file.tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            yield from ((f"{node.name}.{m.name}", m) for m in node.body if is_public(m))
        elif is_public(node):
            yield node.name, node


def is_public(node: ast.AST) -> TypeGuard[Function]:
    if not isinstance(node, Function) or node.name.startswith("_"):
        return False
    marks = {ast.unparse(mark).split(".")[-1] for mark in node.decorator_list}
    return not marks & {"overload", "setter", "override"}


def test_public_functions_classes_and_methods_have_docstrings() -> None:
    wrong = []
    for file in source.package():
        for name, node in public_parts(file):
            if ast.get_docstring(node) is None:
                wrong.append(f"{file.path}: {name}")
    assert not wrong, "\n".join(wrong)


def test_no_file_is_a_drawer_for_odds_and_ends() -> None:
    names = [file.path for file in (*source.package(), *source.tests())]
    wrong = [path for path in names if FORBIDDEN_FILES.match(path.rpartition("/")[2])]
    assert not wrong, "\n".join(wrong)


def test_class_names_say_what_a_thing_is() -> None:
    wrong = []
    for file in source.package():
        classes = (node for node in ast.walk(file.tree) if isinstance(node, ast.ClassDef))
        wrong += [f"{file.path}: {node.name}" for node in classes if FORBIDDEN_CLASSES.search(node.name)]
    assert not wrong, "\n".join(wrong)


def docstrings(tree: ast.AST) -> set[int]:
    """Return the ids of the constants that are docstrings, of attributes too."""
    return {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }


def test_protocol_versions_are_spelt_in_one_file() -> None:
    """ERA-5: code asks `wire.versions` what a revision can do; a date elsewhere is an `if version ==` in the making."""
    wrong = []
    for file in source.package():
        if file.path == VERSION_HOME:
            continue
        spared = docstrings(file.tree)
        for node in ast.walk(file.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in spared:
                wrong += [f"{file.path}:{node.lineno} {node.value}"] if VERSION.fullmatch(node.value) else []
    assert not wrong, "\n".join(wrong)


WAITS = {"move_on_after", "fail_after", "sleep"}
BOUNDED = {"maxsize", "maxlen", "max_items"}
FEWEST_CUT = 12
"""A smaller slice is a part of something with a fixed form: a date, a row."""


def unnamed(node: ast.expr) -> bool:
    """Say whether a wait or a size is written as a number; a share of something named, such as `x / 4`, is not."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float) and node.value > 0
    if isinstance(node, ast.Call):
        return any(map(unnamed, node.args))
    return False


def unnamed_numbers(tree: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            named = [word.value for word in node.keywords if word.arg in BOUNDED]
            waits = ast.unparse(node.func).rpartition(".")[2] in WAITS
            yield from filter(unnamed, [*named, *(node.args if waits else [])])
        elif isinstance(node, ast.Slice) and node.lower is None and isinstance(node.upper, ast.Constant):
            yield from [node.upper] if isinstance(node.upper.value, int) and node.upper.value >= FEWEST_CUT else []


def test_waits_sizes_and_cuts_have_names() -> None:
    """Law 8: every bound is a setting, or a constant whose name and docstring say of what and why."""
    wrong = [
        f"{file.path}:{node.lineno} {ast.unparse(node)}"
        for file in source.package()
        for node in unnamed_numbers(file.tree)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_search_for_unnamed_numbers_finds_them() -> None:
    code = "trio.sleep(1); fail_after(min(60.0, x)); lru_cache(maxsize=9); a[:40]; sleep(0); sleep(x / 2); b[:10]"
    assert [ast.unparse(node) for node in unnamed_numbers(ast.parse(code))] == ["1", "min(60.0, x)", "9", "40"]


REVISIONS = {"STATELESS", "HEADERLESS", "OLDEST", "BATCHING", "TITLED", "NEWEST"}
ORDERED = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)


def names_a_revision(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and re.match(r"20\d\d(-|$)", node.value) is not None
    return isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node).rpartition(".")[2] in REVISIONS


def comparisons_of_revisions(tree: ast.AST, *, equality: bool) -> Iterator[ast.Compare]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(map(names_a_revision, (node.left, *node.comparators))):
            kinds = (*ORDERED, ast.Eq, ast.NotEq) if equality else ORDERED
            if any(isinstance(operator, kinds) for operator in node.ops):
                yield node


def test_only_the_table_of_revisions_compares_them() -> None:
    """ERA-5: others ask `can` or `is_stateless`. A test may name a revision, but not count on their order."""
    places = [(file, True) for file in source.package() if file.path != VERSION_HOME]
    places += [(file, False) for file in source.tests()]
    wrong = [
        f"{file.path}:{node.lineno} {ast.unparse(node)}"
        for file, equality in places
        for node in comparisons_of_revisions(file.tree, equality=equality)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_search_for_comparisons_of_revisions_finds_them() -> None:
    code = "version >= '2026'; self.version == versions.STATELESS; TITLED < version; year >= 2026; method == '2'"
    found = comparisons_of_revisions(ast.parse(code), equality=True)
    assert [ast.unparse(node) for node in found] == [part.strip() for part in code.split(";")[:3]]


def test_no_function_takes_a_timeout() -> None:
    """One call has one deadline, and the Message Manager opens it; a `timeout=` would be a second one."""
    words = {"timeout", "timeout_s", "timeout_ms", "timeout_seconds"}
    found = set()
    for name, function in all_functions():
        arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
        if words & {a.arg for a in arguments}:
            found.add(name)
    assert not unexcused(found, TIMEOUT_PARAMETERS)


def test_every_silenced_check_is_named_and_a_law_says_why() -> None:
    """A broad except, a shielded await or a started program that a checker may not see carries its reason."""
    laws = re.compile(r"\b(BLE|ASYNC|S)\d+")
    wrong = []
    for file in source.package():
        for number, line in enumerate(file.text.splitlines(), 1):
            codes = re.search(r"# noqa:? ?((?:[A-Z]+\d+(?:, ?)?)*)(.*)", line)
            if codes and (not codes[1] or (laws.search(codes[1]) and not codes[2].strip())):
                wrong.append(f"{file.path}:{number} {line.strip()}")
    assert not wrong, "\n".join(wrong)


COUNTED = re.compile(
    r" (tasks|files|documents|chunks|prompts|lines|calls|messages|replies|threads|workers|sessions|times|resources"
    r"|texts|vectors|connections|keys)\b"
)


def may_be_one(part: ast.expr) -> bool:
    """False for a text, a constant and a choice between words."""
    if not isinstance(part, ast.FormattedValue) or isinstance(part.value, ast.IfExp):
        return False
    return not (isinstance(part.value, ast.Name) and part.value.id.isupper())


def hasty_plurals(tree: ast.AST) -> Iterator[str]:
    """Find the texts in which a number stands before a plural, which is wrong for one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            for number, after in pairwise(node.values):
                text = after.value if isinstance(after, ast.Constant) else ""
                if may_be_one(number) and COUNTED.match(str(text)):
                    yield ast.unparse(node)
        elif isinstance(node, ast.Constant) and any(map(COUNTED.match, str(node.value).split("%d")[1:])):
            yield str(node.value)


def test_one_thing_is_not_told_as_several() -> None:
    """`errors.counted` puts the s where it belongs."""
    assert not [f"{file.path}: {text}" for file in source.package() for text in hasty_plurals(file.tree)]


def test_the_search_for_hasty_plurals_finds_them() -> None:
    told = 'f"{count} tasks"; f"a {n} documents b"; "%d tasks had"; f"{counted(n, \'task\')} left"; f"{name} taskset"'
    assert len(list(hasty_plurals(ast.parse(told)))) == 3


def test_cancelled_is_spelt_with_two_ls() -> None:
    pattern = re.compile(r"\bcancel(ed|ing)\b", re.IGNORECASE)
    wrong = [file.path for file in source.package() if pattern.search(file.text)]
    assert not wrong, "\n".join(wrong)


def test_nothing_is_left_unfinished() -> None:
    pattern = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
    wrong = [file.path for file in source.package() if pattern.search(file.text)]
    assert not wrong, "\n".join(wrong)


def each_test() -> Iterator[tuple[Source, str, Function]]:
    for file in source.tests():
        for name, function in source.functions(file):
            if name.rpartition(".")[2].startswith("test_") and file.path.rpartition("/")[2].startswith("test_"):
                yield file, name, function


def test_test_names_are_sentences() -> None:
    wrong = [f"{file.path}: {name}" for file, name, _ in each_test() if name.count("_") < 3]
    assert not wrong, "\n".join(wrong)


def test_tests_do_not_sleep() -> None:
    """A test waits for something that happens; it never waits for time to pass."""
    wrong = [
        f"{file.path}:{node.lineno} {name}"
        for file, name, function in each_test()
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "time.sleep"
    ]
    assert not wrong, "\n".join(wrong)
