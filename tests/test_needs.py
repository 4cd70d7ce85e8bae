"""The rule for missing programs holds: a contributor is told what to install, continuous integration fails."""

from __future__ import annotations

import pytest

from tests import needs

ABSENT = "no-such-program"


@pytest.fixture(autouse=True)
def absent_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(needs.INSTALL, ABSENT, "it from nowhere")


def test_a_missing_program_skips_and_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="install it from nowhere"):
        needs.need(ABSENT)


def test_a_missing_program_fails_in_continuous_integration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="install it from nowhere"):
        needs.need(ABSENT)


def test_a_program_nobody_described_is_a_mistake_of_the_test() -> None:
    with pytest.raises(KeyError):
        needs.need("undescribed-program")


def test_a_free_port_can_be_bound(free_port: int) -> None:
    assert 1024 <= free_port <= 65535
