"""The jail and the walk below the file tools: what may be named, what is opened, and what a race can win."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpd.errors import ConfigurationError, ToolError
from mcpd.tools.builtin.globbing import Glob, walk
from mcpd.tools.builtin.jail import Jail
from mcpd.tools.builtin.protected import Places

SECRET = b"outside the root"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.txt").write_bytes(SECRET)
    return folder


@pytest.fixture
def root(tmp_path: Path, outside: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "notes" / "deep").mkdir(parents=True)
    (folder / "notes" / "today.txt").write_text("milk\n")
    (folder / "notes" / "deep" / "down.md").write_text("# deep\n")
    (folder / "a.txt").write_text("a")
    return folder


def read(jail: Jail, path: str) -> bytes:
    with jail.file(jail.parse_file(path)) as (fd, status):
        return os.pread(fd, status.st_size, 0)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def listed(jail: Jail, path: str = ".", pattern: str | None = None, *, recursive: bool = False) -> list[str]:
    base = jail.parse(path)
    visits = walk(jail, base, Glob(pattern, recursive=recursive), limit=1000)
    return ["/".join(visit.parts) for visit in visits if visit.matches]


def test_a_relative_path_reads_its_file_however_it_is_spelled(root: Path) -> None:
    """TOOL-5."""
    jail = Jail(root)
    assert read(jail, "notes/today.txt") == b"milk\n"
    assert read(jail, "./notes//./today.txt") == b"milk\n"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../outside/secret.txt", "'..' is not allowed"),
        ("notes/../../outside/secret.txt", "'..' is not allowed"),
        ("/etc/passwd", "relative to the served folder"),
        ("notes/today.txt\0.png", "no path may have"),
        ("\udcff", "no path may have"),
        (".env", "not served"),
        ("notes/.git/config", "not served"),
        ("\u200c.env", "not served"),
        ("", "a file's path is needed"),
        (".", "a file's path is needed"),
        ("x" * 5000, "too long"),
        ("notes", "it is a folder"),
        ("notes/none.txt", "there is no such file"),
        ("a.txt/b", "not a folder"),
        ("n" * 300, "name is too long"),
    ],
)
def test_a_path_that_may_not_be_used_is_refused_with_the_reason(root: Path, path: str, reason: str) -> None:
    """RSC-3."""
    with pytest.raises(ToolError, match=reason):
        read(Jail(root), path)


def test_a_refusal_never_tells_where_the_root_is(root: Path) -> None:
    """TOOL-5."""
    for path in ("none.txt", "notes", "../x", "a.txt/b"):
        with pytest.raises(ToolError) as caught:
            read(Jail(root), path)
        assert str(root) not in str(caught.value)


def test_symbolic_links_are_listed_but_not_followed_at_any_place_of_a_path(root: Path, outside: Path) -> None:
    """RSC-3."""
    (root / "file-link").symlink_to(outside / "secret.txt")
    (root / "folder-link").symlink_to(outside)
    (root / "inner-link").symlink_to("a.txt")
    (root / "loop").symlink_to("loop")
    jail = Jail(root)
    for path in ("file-link", "folder-link/secret.txt", "inner-link", "loop"):
        with pytest.raises(ToolError, match="link"):
            read(jail, path)
    with pytest.raises(ToolError, match="link"):
        listed(jail, "folder-link")
    assert "folder-link" in listed(jail, recursive=True)
    assert not any("secret" in path for path in listed(jail, recursive=True))


def test_nothing_is_written_or_deleted_through_a_symbolic_link(root: Path, outside: Path) -> None:
    """RSC-3."""
    (root / "file-link").symlink_to(outside / "secret.txt")
    (root / "folder-link").symlink_to(outside)
    jail = Jail(root)
    for path in ("file-link", "folder-link/secret.txt", "folder-link/new/x.txt"):
        with pytest.raises(ToolError, match="link"):
            jail.write(jail.parse_file(path), b"mine", overwrite=True)
        with pytest.raises(ToolError):
            jail.delete(jail.parse_file(path))
    assert names_in(outside) == ["secret.txt"]
    assert (outside / "secret.txt").read_bytes() == SECRET


def test_a_hard_link_is_not_read_and_a_write_leaves_its_other_name_alone(root: Path, outside: Path) -> None:
    """RSC-3."""
    os.link(outside / "secret.txt", root / "innocent.txt")
    jail = Jail(root)
    with pytest.raises(ToolError, match="hard links"):
        read(jail, "innocent.txt")
    jail.write(("innocent.txt",), b"mine", overwrite=True)
    assert (outside / "secret.txt").read_bytes() == SECRET
    assert read(jail, "innocent.txt") == b"mine"


def test_only_regular_files_are_opened_and_nothing_waits_for_a_fifo(root: Path) -> None:
    """RSC-3."""
    os.mkfifo(root / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    os.chdir(root)
    with listener:
        listener.bind("socket")
        jail = Jail(root)
        for path in ("fifo", "socket"):
            with pytest.raises(ToolError, match="not a regular file"):
                read(jail, path)
            with pytest.raises(ToolError, match="not a regular file"):
                jail.delete((path,))
            with pytest.raises(ToolError, match="not a regular file"):
                jail.write((path,), b"", overwrite=True)


def test_dotfiles_are_served_only_when_asked_for_and_the_data_folder_never(root: Path) -> None:
    """RSC-3."""
    (root / ".env").write_text("dot")
    (root / ".mcpd").mkdir()
    (root / ".mcpd" / "keys.toml").write_text("keys")
    places = Places(secret=(root / ".mcpd", root / "later"))
    assert listed(Jail(root, places)) == ["a.txt", "notes"]
    jail = Jail(root, places, hidden=True)
    assert listed(jail, recursive=True)[:2] == [".env", "a.txt"]
    assert read(jail, ".env") == b"dot"
    for path in (".mcpd/keys.toml", ".mcpd/new.txt", "later/x.txt"):
        with pytest.raises(ToolError, match="not served"):
            jail.write(jail.parse_file(path), b"", overwrite=True)
    assert not any(".mcpd" in path for path in listed(jail, recursive=True))


def test_an_excluded_folder_is_recognised_under_another_name(root: Path) -> None:
    """RSC-3."""
    (root / "data").mkdir()
    (root / "data" / "keys.toml").write_text("keys")
    jail = Jail(root, Places(secret=(root / "data",)))
    (root / "data").rename(root / "moved")
    (root / "data").symlink_to("moved")
    with pytest.raises(ToolError, match="not served"):
        read(jail, "moved/keys.toml")
    assert "moved" not in listed(jail)


def test_a_root_that_cannot_be_served_is_a_configuration_error(root: Path) -> None:
    """RSC-3."""
    for bad in (root / "none", root / "a.txt"):
        with pytest.raises(ConfigurationError, match=r"files\.root"):
            Jail(bad)
    with pytest.raises(ConfigurationError, match="data folder"):
        Jail(root, Places(secret=(root,)))


def test_a_write_makes_folders_keeps_permissions_and_leaves_no_temporary_file(root: Path) -> None:
    """TOOL-5."""
    jail = Jail(root)
    assert jail.write(("new", "er", "x.txt"), b"1", overwrite=False) is True
    (root / "new" / "er" / "x.txt").chmod(0o755)
    assert jail.write(("new", "er", "x.txt"), b"2", overwrite=True) is False
    assert (root / "new" / "er" / "x.txt").read_bytes() == b"2"
    assert stat.S_IMODE((root / "new" / "er" / "x.txt").stat().st_mode) == 0o755
    assert names_in(root / "new" / "er") == ["x.txt"]


def test_without_overwrite_exactly_one_of_many_writers_wins(root: Path) -> None:
    """TOOL-5."""
    jail, wins, refusals = Jail(root), [], []
    start = threading.Barrier(8)

    def write(mark: int) -> None:
        start.wait(10)
        try:
            jail.write(("prize.txt",), b"%d" % mark * 1000, overwrite=False)
        except ToolError as error:
            refusals.append(str(error))
        else:
            wins.append(mark)

    threads = [threading.Thread(target=write, args=(mark,)) for mark in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(wins) == 1
    assert len([text for text in refusals if "exists already" in text]) == 7
    assert (root / "prize.txt").read_bytes() == b"%d" % wins[0] * 1000
    assert names_in(root) == ["a.txt", "notes", "prize.txt"]


def test_delete_removes_a_file_and_refuses_a_folder(root: Path) -> None:
    """TOOL-5."""
    jail = Jail(root)
    assert jail.delete(("notes", "today.txt")) == 5
    assert not (root / "notes" / "today.txt").exists()
    with pytest.raises(ToolError, match="it is a folder"):
        jail.delete(("notes",))


def move(old: Path, new: Path) -> None:
    while True:
        try:
            old.rename(new)
        except OSError:
            shutil.rmtree(new, ignore_errors=True)  # a write may be filling it at this very moment
        else:
            return


def test_swapping_a_folder_for_a_link_never_leaks_what_is_outside(root: Path, outside: Path) -> None:
    """RSC-3: the names change as fast as they can while files are read, listed and written."""
    (root / "swap").mkdir()
    (root / "swap" / "secret.txt").write_bytes(b"inside")
    (root / "link").symlink_to(outside)
    jail, done = Jail(root), threading.Event()

    def swap() -> None:
        while not done.is_set():
            move(root / "swap", root / "aside")
            move(root / "link", root / "swap")
            move(root / "swap", root / "link")
            move(root / "aside", root / "swap")

    swapper = threading.Thread(target=swap)
    swapper.start()
    outcomes = set()
    try:
        for turn in range(1500):
            try:
                outcomes.add(read(jail, "swap/secret.txt"))
                jail.write(("swap", f"{turn}.txt"), b"", overwrite=True)
            except ToolError:
                outcomes.add(b"refused")
    finally:
        done.set()
        swapper.join(20)
    assert outcomes == {b"inside", b"refused"}
    assert names_in(outside) == ["secret.txt"]


NAMES = st.sampled_from(["..", ".", "", "notes", "a.txt", "link", "file-link", "today.txt", ".git", "/", "\0", "~"])
PATHS = st.lists(st.one_of(NAMES, st.text(max_size=8)), max_size=6).map("/".join)


@given(path=st.one_of(PATHS, st.text(max_size=40)))
def test_no_path_whatever_reaches_a_file_outside(tmp_path_factory: pytest.TempPathFactory, path: str) -> None:
    """RSC-3."""
    top = tmp_path_factory.getbasetemp() / "hostile"
    if not top.exists():
        (top / "root" / "notes").mkdir(parents=True)
        (top / "secret.txt").write_bytes(SECRET)
        (top / "root" / "link").symlink_to("..")
        (top / "root" / "file-link").symlink_to("../secret.txt")
        (top / "root" / "a.txt").write_bytes(b"inside")
        (top / "root" / "notes" / "today.txt").write_bytes(b"inside")
    jail = Jail(top / "root")
    try:
        assert read(jail, path) == b"inside"
    except ToolError as error:
        str(error).encode()


def test_a_glob_matches_names_paths_and_any_depth(root: Path) -> None:
    """TOOL-1."""
    jail = Jail(root)
    assert listed(jail) == ["a.txt", "notes"]
    assert listed(jail, pattern="*.txt") == ["a.txt"]
    assert listed(jail, pattern="*.txt", recursive=True) == ["a.txt", "notes/today.txt"]
    assert listed(jail, pattern="**/*.md") == ["notes/deep/down.md"]
    assert listed(jail, pattern="notes/*.txt") == ["notes/today.txt"]
    assert listed(jail, "notes", "deep/**") == ["notes/deep", "notes/deep/down.md"]
    assert listed(jail, pattern="[ab].t?t") == ["a.txt"]


TREE = ["a", "a/b", "a/b/c.txt", "a/z.txt", "ab.txt", "b", "b/c", "b/c/d.txt", "c.txt"]


@given(cut=st.integers(0, len(TREE)))
def test_a_walk_taken_up_behind_any_path_shows_exactly_the_rest(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    """PAG-1."""
    top = tmp_path_factory.getbasetemp() / "tree"
    for path in TREE:
        target = top / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch() if "." in path else target.mkdir(exist_ok=True)
    jail, glob = Jail(top), Glob(None, recursive=True)
    after = tuple(TREE[cut - 1].split("/")) if cut else ()
    assert ["/".join(visit.parts) for visit in walk(jail, (), glob, after=after, limit=100)] == TREE[cut:]


def test_a_walk_goes_on_where_its_last_path_has_vanished(root: Path) -> None:
    """PAG-1."""
    jail = Jail(root)
    visits = walk(jail, (), Glob(None, recursive=True), after=("notes", "elsewhere", "x"), limit=100)
    assert ["/".join(visit.parts) for visit in visits] == ["notes/today.txt"]
