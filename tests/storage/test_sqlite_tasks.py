"""Tasks in SQLite, beyond the contract: what stays in the folder, and whose files it takes."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from mcpd.commands.checking import examine
from mcpd.storage.documents import StorageError
from mcpd.storage.sqlite.owners import Owners
from mcpd.storage.sqlite.tasks import STEPS, open_tasks
from mcpd.storage.task_states import Ask, End
from tests.contract.backends import Clock
from tests.contract.task_backends import made, question
from tests.in_process import server_config


async def test_tasks_are_there_after_a_restart_and_those_that_ran_have_failed(tmp_path: Path) -> None:
    """TSK-4, TSK-13, law 12."""
    clock = Clock()
    async with open_tasks(tmp_path, clock=clock) as tasks:
        await made(tasks, "done")
        await tasks.apply("done", End(tasks.owner, "completed", b'{"x":1}', "well"))
        await made(tasks, "asking")
        await tasks.apply("asking", Ask(tasks.owner, {"a": question()}))
        before = await tasks.get("done")
    async with open_tasks(tmp_path, clock=clock) as tasks:
        assert await tasks.get("done") == before
        assert await tasks.recover() == 1
        asking = await tasks.get("asking")
        assert asking is not None
        assert (asking.state, asking.asked) == ("failed", {})


async def test_a_database_of_a_newer_mcpd_or_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    async with open_tasks(tmp_path) as tasks:
        await made(tasks)
    with sqlite3.connect(tmp_path / "tasks.db") as database:
        database.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
    database.close()
    with pytest.raises(StorageError, match=f"has schema {len(STEPS) + 1}"):
        async with open_tasks(tmp_path):
            pass
    with sqlite3.connect(tmp_path / "tasks.db") as database:
        assert database.execute("SELECT count(*) FROM tasks").fetchone() == (1,)
        database.execute("PRAGMA application_id = 7")
    database.close()
    with pytest.raises(StorageError, match="not one of mcpd"):
        async with open_tasks(tmp_path):
            pass


async def test_an_owners_file_goes_with_it_and_those_of_the_dead_at_the_next_recovery(tmp_path: Path) -> None:
    files = tmp_path / "owners"
    async with open_tasks(tmp_path) as tasks:
        assert [path.name for path in files.iterdir()] == [tasks.owner]
    assert list(files.iterdir()) == []
    dead = Owners(tmp_path)
    dead.drop()
    assert [path.name for path in files.iterdir()] == [dead.epoch]
    living = Owners(tmp_path)
    async with open_tasks(tmp_path) as tasks:
        await tasks.recover()
        assert {path.name for path in files.iterdir()} == {tasks.owner, living.epoch}
        assert living.is_alive(tasks.owner)
    living.close()


async def test_a_finished_task_is_no_reason_to_look_for_changes_often(tmp_path: Path) -> None:
    """Law 8: ten looks a second are for who runs tasks, not for who has run one, ended or expired."""
    clock = Clock()
    async with open_tasks(tmp_path, clock=clock) as tasks:
        await made(tasks, "ended")
        await made(tasks, "expired", ttl_s=1.0)
        await tasks.apply("ended", End(tasks.owner, "cancelled"))
        clock.now_s += 2
        await tasks.apply("expired", End(tasks.owner, "cancelled"))
        assert not tasks._running


def test_mcpd_check_tells_of_tasks_where_there_are_some(tmp_path: Path) -> None:
    """Surfaces, "Command line" (check): what is not there is not made."""
    config = server_config(tmp_path)
    config = replace(config, data=replace(config.data, folder=tmp_path / "data"))
    assert "tasks:" not in examine(lambda: config).as_text()
    assert not (tmp_path / "data" / "tasks.db").exists()
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data" / "tasks.db").write_bytes(b"not a database, but long enough to look at as one" * 30)
    assert any("tasks.db" in problem for problem in examine(lambda: config).problems)
    (tmp_path / "data" / "tasks.db").write_bytes(b"")
    assert "tasks: 0 kept" in examine(lambda: config).as_text()
