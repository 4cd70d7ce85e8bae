"""The table of breaks is true: each fits the package as it is, and names rules and tests that exist.

That each break turns its tests red is shown by `just break-laws`, which takes minutes; here only what lets it begin.
"""

from __future__ import annotations

import ast

import pytest

from tests.laws.break_laws import Break, breaks, broken_text, fault_of, matching
from tests.requirements import citations, entries
from tests.source import ROOT

LEAST = 300
"""Breaks there have to be."""
PROTOCOL = [one for one in breaks() if one.ids]
CODE = [one for one in breaks() if not one.ids]
TEST = "tests/test_x.py::test_it_is_so"


@pytest.mark.parametrize("one", breaks(), ids=lambda one: one.name)
def test_a_break_changes_one_line_of_the_package_and_leaves_it_python(one: Break) -> None:
    assert one.file.startswith("mcpd/")
    text = (ROOT / one.file).read_text(encoding="utf-8")
    broken = broken_text(text, one)
    changed = [pair for pair in zip(text.splitlines(), broken.splitlines(), strict=True) if pair[0] != pair[1]]
    assert len(changed) == 1
    assert ast.dump(ast.parse(broken)) != ast.dump(ast.parse(text))


@pytest.mark.parametrize("one", PROTOCOL, ids=lambda one: one.name)
def test_a_break_of_rules_breaks_such_that_bind_and_names_tests_of_theirs(one: Break) -> None:
    assert one.tests
    assert not one.why
    assert all("M" in entries()[name]["tag"].split("/") for name in one.ids)
    mapped = {test for name in one.ids for test in entries()[name]["tests"]}
    assert set(one.tests) <= mapped & citations().keys()


@pytest.mark.parametrize("one", CODE, ids=lambda one: one.name)
def test_a_break_of_the_code_says_what_it_breaks_and_names_tests_that_exist(one: Break) -> None:
    assert one.why
    assert one.tests
    assert set(one.tests) <= citations().keys()


def test_there_are_enough_breaks_and_no_two_are_alike() -> None:
    assert len(breaks()) >= LEAST
    assert len({one.name for one in breaks()}) == len(breaks())
    assert len({(one.file, one.line, one.instead) for one in breaks()}) == len(breaks())


def test_breaks_are_chosen_by_a_word_of_theirs() -> None:
    assert matching("") == list(breaks())
    assert matching("no such word") == []
    first = breaks()[0]
    assert all(first in matching(word) for word in (first.name.upper(), *first.ids, first.file, *first.tests))


@pytest.mark.parametrize("text", ["", "other\n", "    old\nold\n", "old = 1\n"])
def test_a_break_whose_line_is_not_there_once_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"mcpd/x\.py"):
        broken_text(text, Break("a break", ("RPC-1",), "mcpd/x.py", "old", "new", (TEST,)))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0, "1 passed"),
        (1, "1 passed"),
        (1, f"FAILED {TEST}_too - AssertionError: assert 1 == 2"),
        (1, f"FAILED {TEST}[a b] - NameError: name 'new' is not defined"),
        (1, f"FAILED {TEST} - trio.TooSlowError\nERROR {TEST} - OSError"),
        (2, "ERROR tests/test_x.py - ImportError: cannot import name 'new'"),
        (4, "ERROR: not found: tests/test_x.py::test_it_is_so"),
    ],
)
def test_a_test_that_did_not_fail_by_what_it_saw_is_not_red(code: int, said: str) -> None:
    assert fault_of(TEST, code, said)


@pytest.mark.parametrize("shown", [f"{TEST} - assert 1 == 2", f"{TEST}[a b] - Failed: DID NOT RAISE", TEST])
def test_a_test_that_failed_by_what_it_saw_is_red(shown: str) -> None:
    assert fault_of(TEST, 1, f"1 failed\nFAILED {shown}\n") == ""
