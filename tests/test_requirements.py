"""Every protocol requirement has a test, or a reason to have none; and the map says nothing that is not so."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests import source
from tests.requirements import FAMILIES, citations, cited, entries, unmapped

REASONS_LATER: set[str] = set()
"""What may come later: nothing, today."""

LAST = {
    "RPC": 12, "ERA": 12, "LAD": 2, "HDR": 15, "GET": 2, "IO": 9, "WS": 5, "STA": 2, "RES": 5, "DIS": 4, "TOOL": 5,
    "RSC": 3, "PRM": 1, "CMP": 1, "PAG": 1, "RSP": 6, "CAN": 6, "PRG": 2, "LOG": 2, "SUB": 14, "MRT": 12, "JSC": 5,
    "SEC": 6, "TSK": 14, "EXT": 0, "INI": 7, "VER": 2, "SES": 8, "STR": 7, "RSM": 5, "S2C": 5, "BAT": 4, "SIE": 3,
    "PUB": 1,
}  # fmt: skip
"""Family -> its last number: the map's own completeness."""

TAGS = {"M", "S", "O", "C", "R", "-"}


def test_the_map_holds_every_requirement_once_and_in_order() -> None:
    wanted = [f"{family}-{n}" for family in FAMILIES for n in range(0 if family == "EXT" else 1, LAST[family] + 1)]
    assert list(entries()) == wanted


def test_every_requirement_says_how_binding_it_is() -> None:
    assert all(set(entry["tag"].split("/")) <= TAGS for entry in entries().values())


def test_every_requirement_has_a_test_or_a_reason_to_have_none() -> None:
    assert not unmapped(), "\n".join(unmapped())


def test_a_requirement_is_tested_or_excused_but_not_both() -> None:
    for name, entry in entries().items():
        assert len({"tests", "later", "not_ours"} & entry.keys()) == 1, name
        assert entry.keys() <= {"tag", "tests", "later", "not_ours"}, name
        assert entry.get("later") in {None, *REASONS_LATER}, name


def test_a_must_is_excused_only_with_a_sentence() -> None:
    for name, entry in entries().items():
        assert len(entry.get("not_ours", "a sentence of some length").split()) >= 4, name


@pytest.mark.parametrize("name", [name for name, entry in entries().items() if entry.get("tests")])
def test_each_mapped_test_exists_and_cites_its_requirement(name: str) -> None:
    known = citations()
    for test in entries()[name]["tests"]:
        assert test in known, f"{test} does not exist"
        assert name in known[test], f"the docstring of {test} does not cite {name}"


def test_tests_cite_only_requirements_that_exist() -> None:
    known = entries().keys()
    wrong = [f"{test}: {sorted(ids - known)}" for test, ids in citations().items() if ids - known]
    assert not wrong, "\n".join(wrong)


def test_the_package_cites_only_requirements_that_exist() -> None:
    wrong = [
        f"{file.path}: {sorted(cited(file.text) - entries().keys())}"
        for file in source.package()
        if cited(file.text) - entries().keys()
    ]
    assert not wrong, "\n".join(wrong)


def test_ranges_of_ids_are_read_as_their_members() -> None:
    assert cited("RPC-2..4, HDR-7 and UTF-8") == {"RPC-2", "RPC-3", "RPC-4", "HDR-7"}


def test_the_written_map_is_what_the_tool_would_write() -> None:
    """Sorted, and with nothing by hand that the tool would take away."""
    for entry in entries().values():
        assert all(first < second for first, second in pairwise(entry.get("tests", [])))
