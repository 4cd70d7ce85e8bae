"""The command line: help, exit codes, keys and `mcpd check`, run in this process on a folder of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

import mcpd
from mcpd import cli
from tests.served import environment


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("MCPD_") or name in ("PORT", "LOG_LEVEL", "REDIS_URL")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


Output = pytest.CaptureFixture[str]


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [path]
    for name, command in group.commands.items():
        if command.hidden:
            continue
        inner = (*path, name)
        found += commands(command, inner) if isinstance(command, click.Group) else [inner]
    return found


def checked(capsys: Output, *words: str) -> tuple[int, dict[str, Any]]:
    code = cli.run(["check", "--json", *words])
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, report


@pytest.mark.parametrize("path", commands(cli.cli), ids=" ".join)
def test_every_command_explains_itself_with_examples(path: tuple[str, ...], capsys: Output) -> None:
    """CLI: help."""
    assert cli.run([*path, "--help"]) == 0
    out = capsys.readouterr().out
    assert "\n  Examples:\n    " in out
    assert all(line.isascii() for line in out.splitlines())


def test_the_commands_are_those_that_are_promised() -> None:
    """CLI: names."""
    kept = {"ingest", "documents", "search", "records", "migrate"}
    assert {name for name, command in cli.cli.commands.items() if not command.hidden} == {
        "serve",
        "stdio",
        "call",
        "check",
        "keys",
    } | kept
    groups: dict[str, set[str]] = {}
    for path in commands(cli.cli):
        if len(path) == 2:
            groups.setdefault(path[0], set()).add(path[1])
    assert groups == {
        "keys": {"new", "list", "revoke", "seal"},
        "documents": {"list", "show", "remove"},
        "migrate": {"status", "up", "down"},
    }


def test_the_version_is_told(capsys: Output) -> None:
    """CLI: version."""
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"mcpd {mcpd.__version__}\n"


@pytest.mark.parametrize("words", [["nonsense"], ["serve", "--nonsense"], ["call"], ["keys", "new"], ["ingest"]])
def test_wrong_usage_exits_with_2(words: list[str], capsys: Output) -> None:
    """CLI: exit codes."""
    assert cli.run(words) == 2
    assert "Usage:" in capsys.readouterr().err


def test_a_configuration_error_is_one_line_that_says_what_to_do(capsys: Output) -> None:
    """CLI: friendly errors."""
    Path("bad.toml").write_text("[server]\nprot = 1\n")
    assert cli.run(["keys", "list", "--config", "bad.toml"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("mcpd: ")
    assert err.count("\n") == 1
    assert "server.port" in err


def test_help_loads_no_server() -> None:
    """CLI: quick help."""
    code = (
        "import sys; from mcpd import cli; cli.run(['--help']); print({'trio', 'quart', 'msgspec'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(cli.__file__).parents[1]
    )
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_key_is_shown_once_listed_by_name_and_revoked(folder: Path, capsys: Output) -> None:
    """CLI: keys; AUT-4."""
    assert cli.run(["keys", "new", "laptop", "--scope", "read", "--scope", "metrics", "--data", "store"]) == 0
    made = capsys.readouterr()
    key = made.out.strip()
    assert key.startswith("mcpd_")
    assert key not in (folder / "store" / "keys.toml").read_text()
    assert cli.run(["keys", "list", "--data", "store", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["keys"]
    assert (listed["name"], listed["scopes"]) == ("laptop", ["read", "metrics"])
    assert cli.run(["keys", "new", "laptop", "--data", "store"]) == 2
    assert "already" in capsys.readouterr().err
    assert cli.run(["keys", "revoke", "laptop", "--data", "store"]) == 0
    assert cli.run(["keys", "revoke", "laptop", "--data", "store"]) == 2
    assert "no key named" in capsys.readouterr().err


def test_a_new_key_in_json_can_be_used_by_a_script(capsys: Output) -> None:
    """CLI: keys."""
    assert cli.run(["keys", "new", "ci", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["name"] == "ci"
    assert made["scopes"] == ["call"]
    assert made["key"].startswith("mcpd_")


def test_check_tells_each_value_and_where_it_comes_from(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """CLI: check."""
    Path("mcpd.toml").write_text("[server]\nport = 9000\nname = 'here'\n")
    monkeypatch.setenv("PORT", "9001")
    code, report = checked(capsys, "--log-level", "debug")
    origins = {row["name"]: (row["value"], row["origin"]) for row in report["settings"]}
    assert code == 0
    assert origins["server.name"] == ("here", "mcpd.toml")
    assert origins["server.port"] == ("9001", "PORT")
    assert origins["server.log_level"] == ("debug", "command line")
    assert origins["server.host"] == ("127.0.0.1", "default")
    assert cli.run(["check"]) == 0
    assert "(mcpd.toml)" in capsys.readouterr().out


def test_a_scope_that_only_tools_could_name_is_pointed_out(capsys: Output) -> None:
    """AUT-5: any name may be a tool's own scope, so that `cal` for `call` is no error."""
    assert cli.run(["keys", "new", "laptop", "--scope", "cal", "--scope", "metrics", "--scope", "read"]) == 0
    said = capsys.readouterr().err
    assert "'cal' is no scope of mcpd's own" in said
    assert "after SIGHUP" in said
    assert said.count("no scope") == 1


def test_check_names_every_problem_at_once(folder: Path, capsys: Output) -> None:
    """CLI: check."""
    (folder / "broken.py").write_text("from mcpd import tool\n@tool\ndef f(x: object()): ...\n")
    (folder / "mcpd.toml").write_text(
        "[server]\nhost = '0.0.0.0'\ntls_cert = 'no.pem'\ntls_key = 'no.pem'\n[prompts]\nfolder = 'none'\n"
    )
    code, report = checked(capsys, "--files", "nowhere", "--tools", "broken.py", "--tools", "no_such_module")
    text = "\n".join(report["problems"])
    assert code == 1
    for part in ("server.host", "no.pem", "files.root", "broken.py", "no_such_module", "prompts.folder"):
        assert part in text
    assert len(report["problems"]) == 6


def test_check_finds_a_data_folder_that_cannot_be_made(folder: Path, capsys: Output) -> None:
    """CLI: check."""
    (folder / "blocked").write_text("")
    code, report = checked(capsys, "--data", "blocked/data")
    assert code == 1
    assert any("data.folder" in problem for problem in report["problems"])


def test_check_of_an_unreadable_configuration_says_so(capsys: Output) -> None:
    """CLI: check."""
    code, report = checked(capsys, "--config", "absent.toml")
    assert code == 1
    assert "absent.toml" in report["problems"][0]


@pytest.mark.parametrize(
    ("variable", "value", "nearest"),
    [
        ("MCPD_SERVER_PORT", "9000", "MCPD_SERVER__PORT"),
        ("MCPD_LIMITS_MAX_CALL", "3", "MCPD_LIMITS__MAX_CALLS"),
        ("MCPD_SEAL_KEY", "k:secret", "MCPD_SEAL_KEYS"),
        ("MCPD_REDIS_URL", "redis://somewhere", "MCPD_REDIS__URL"),
    ],
)
def test_check_notes_a_variable_that_looks_like_a_setting_and_is_not_read(
    capsys: Output, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, nearest: str
) -> None:
    """CLI: check."""
    monkeypatch.setenv(variable, value)
    code, report = checked(capsys)
    assert code == 0
    assert f"{variable} is not read; the nearest is {nearest}" in report["notes"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MCPD_PORT", "tcp://10.0.0.1:80"),
        ("MCPD_SERVER_PORT", "tcp://10.0.0.1:80"),
        ("MCPD_SERVICE_HOST", "10.0.0.1"),
        ("MCPD_SERVICE_PORT", "80"),
        ("MCPD_WORKER", "mark"),
        ("MCPD_SERVER_HOST", ""),
        ("MCPD_SERVER__NAME", "name"),
        ("MCPD_DATA", "data"),
    ],
)
def test_check_says_nothing_of_variables_of_service_discovery(
    capsys: Output, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """CLI: check."""
    monkeypatch.setenv(variable, value)
    code, report = checked(capsys)
    assert code == 0
    assert not [note for note in report["notes"] if "is not read" in note]


def test_check_says_why_there_are_no_file_tools(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """CLI: check."""
    monkeypatch.setenv("HOME", str(Path.cwd()))
    code, report = checked(capsys)
    assert code == 0
    assert any("no file tools" in note for note in report["notes"])


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    """CLI: friendly errors."""
    words = [sys.executable, "-m", "mcpd", "check"]
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(20) == 1


def test_check_looks_into_a_store_that_is_there_and_makes_none(folder: Path, capsys: Output) -> None:
    """CLI: check."""
    code, report = checked(capsys)
    assert (code, (folder / ".mcpd").exists()) == (0, False)
    (folder / "notes").mkdir()
    (folder / "notes" / "a.md").write_text("# A\n\ntext")
    assert cli.run(["ingest", "notes"]) == 0
    capsys.readouterr()
    code, report = checked(capsys)
    assert code == 0
    assert "mcpd.db: 1 document in 1 chunk" in report["notes"]


def test_check_refuses_a_store_that_is_none(folder: Path, capsys: Output) -> None:
    """CLI: check."""
    (folder / ".mcpd").mkdir()
    (folder / ".mcpd" / "mcpd.db").write_bytes(b"not a database, whatever it is called" * 100)
    code, report = checked(capsys)
    assert code == 1
    assert any("mcpd.db" in problem for problem in report["problems"])


def test_a_key_can_expire_and_the_listing_says_when(capsys: Output) -> None:
    """CLI: keys new --expires."""
    assert cli.run(["keys", "new", "contractor", "--expires", "90d", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["expires"]
    assert cli.run(["keys", "list"]) == 0
    assert " expires 2" in capsys.readouterr().out
    for wrong in ("90", "d", "-1d", "0d", "90x", "1e3d", "99999999999d", "\u0669d", ""):
        assert cli.run(["keys", "new", "other", "--expires", wrong]) == 2
    assert cli.run(["keys", "list", "--json"]) == 0
    assert [key["name"] for key in json.loads(capsys.readouterr().out)["keys"]] == ["contractor"]


def test_revoking_the_last_key_says_that_the_server_is_locked_and_what_to_do(folder: Path, capsys: Output) -> None:
    """CLI: keys revoke."""
    assert cli.run(["keys", "list"]) == 0
    assert "No keys yet" in capsys.readouterr().err
    assert cli.run(["keys", "new", "laptop"]) == 0
    capsys.readouterr()
    assert cli.run(["keys", "revoke", "laptop"]) == 0
    assert "mcpd keys new NAME" in capsys.readouterr().err
    assert cli.run(["keys", "list"]) == 0
    told = capsys.readouterr().err
    assert "nobody can use the server" in told
    assert str(Path(".mcpd") / "keys.toml") in told
    _, report = checked(capsys)
    assert any("every request needs one" in note for note in report["notes"])


def run_limited(folder: Path, *arguments: str, files: int) -> subprocess.CompletedProcess[str]:
    """Run mcpd in a process that may have so many files open."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))"
    code = f"{limit}; from mcpd.cli import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("files", [16, 25, 40])
@pytest.mark.parametrize(("arguments", "code"), [(("serve", "--port", "0"), 2), (("stdio",), 2), (("check",), 1)])
def test_too_few_files_are_a_line_that_says_what_to_do(
    folder: Path, arguments: tuple[str, ...], code: int, files: int
) -> None:
    """CLI: what went wrong is one line on stderr."""
    done = run_limited(folder, *arguments, files=files)
    assert done.returncode == code, done.stderr
    assert "ulimit -n" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupt_while_mcpd_is_loaded_is_no_traceback(tmp_path: Path) -> None:
    """CLI: 130 interrupted; Ctrl-C comes as this does, in the middle of an import."""
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt")
    env = environment()
    env["PYTHONPATH"] = os.pathsep.join((str(tmp_path), env["PYTHONPATH"]))
    done = subprocess.run([sys.executable, "-m", "mcpd"], env=env, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (130, b"")


def test_what_is_wrong_stands_at_the_end_of_a_check(folder: Path, capsys: Output) -> None:
    """CLI: check; there are some eighty settings above it."""
    (folder / "mcpd.toml").write_text("tools = ['none.py']\n[prompts]\nfolder = 'none'\n")
    assert cli.run(["check"]) == 1
    *_, first, second, summary = capsys.readouterr().out.splitlines()
    assert first.startswith("WRONG  ")
    assert second.startswith("WRONG  ")
    assert summary == "2 things are wrong: see WRONG above"
    (folder / "mcpd.toml").write_text("")
    assert cli.run(["check"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "ok     a server can start with this"


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_key_that_could_not_be_shown_is_not_kept(folder: Path, capsys: Output, more: tuple[str, ...]) -> None:
    """CLI: keys new prints a key once."""
    command = [sys.executable, "-m", "mcpd", "keys", "new", "laptop", *more]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, cwd=folder, env=environment(), stdout=full, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert done.returncode == 1
    assert b"No space left" in done.stderr
    assert cli.run(["keys", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["keys"] == []


def test_a_listing_of_keys_says_when_to_the_second(capsys: Output) -> None:
    """CLI: keys list; a key of an hour ends on the day that it was made."""
    assert cli.run(["keys", "new", "guest", "--expires", "1h"]) == 0
    capsys.readouterr()
    assert cli.run(["keys", "list"]) == 0
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ"
    assert re.fullmatch(rf"guest +call +{time}  expires {time}\n", capsys.readouterr().out)
