"""Revisions and their abilities: table 3.9 as far as it is a matter of yes and no."""

from __future__ import annotations

import pytest

from mcpd.wire.versions import STATEFUL, STATELESS, SUPPORTED_STATELESS, can, is_stateless, negotiate

OLDEST, BATCHING, TITLED, NEWEST = sorted(STATEFUL)
ALL = (OLDEST, BATCHING, TITLED, NEWEST, STATELESS)
SINCE = {
    "annotations": BATCHING,
    "audio": BATCHING,
    "progress_message": BATCHING,
    "completions": BATCHING,
    "title": TITLED,
    "structured": TITLED,
    "resource_link": TITLED,
    "elicitation": TITLED,
    "icons": NEWEST,
    "priming": NEWEST,
}


@pytest.mark.parametrize("ability", SINCE)
def test_an_ability_is_there_from_its_revision_on(ability: str) -> None:
    """SIE-1, RSM-3, PRG-1."""
    first = ALL.index(SINCE[ability])
    assert [can(version, ability) for version in ALL] == [position >= first for position in range(len(ALL))]


def test_exactly_one_revision_has_batches() -> None:
    """BAT-1, BAT-3."""
    assert [version for version in ALL if can(version, "batch")] == [BATCHING]


def test_what_is_negotiated_is_stateful() -> None:
    """INI-2, ERA-2."""
    assert [negotiate(version) for version in STATEFUL] == list(STATEFUL)
    assert {negotiate(version) for version in (STATELESS, "2099-01-01", "", "banana")} == {NEWEST}


def test_what_is_offered_to_stateless_requests_is_stateless() -> None:
    """DIS-2, ERA-1."""
    assert SUPPORTED_STATELESS == [STATELESS]
    assert [version for version in ALL if is_stateless(version)] == [STATELESS]


def test_an_ability_that_does_not_exist_is_a_mistake() -> None:
    """SIE-1."""
    with pytest.raises(KeyError):
        can(NEWEST, "telepathy")
