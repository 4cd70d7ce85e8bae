"""Reading files within bounds: sizes, kinds of files, and files that change meanwhile."""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from mcpd.ingest.readers import PIECE_BYTES, FileChanged, FileTooLarge, NotRegularFile, ReadError, load, read
from mcpd.search.chunking import chunk

GIGABYTE = 1024**3


def sparse(path: Path, size: int, first: bytes = b"") -> Path:
    """Make a file that claims `size` bytes, NUL behind the first ones, and takes no room."""
    with path.open("wb") as file:
        file.write(first)
        file.truncate(size)
    return path


def test_a_file_comes_whole_with_its_digest_and_time(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"words\n")
    found = load(path)
    assert (found.name, found.data, found.sha256) == ("a.txt", b"words\n", hashlib.sha256(b"words\n").hexdigest())
    assert found.mtime_ns == path.stat().st_mtime_ns
    assert read(path).text == "words\n"


def test_an_empty_file_is_an_empty_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    assert read(tmp_path / "a.txt").text == ""


@pytest.mark.parametrize(
    ("name", "first", "setting"),
    [
        ("a.txt", b"x" * 70_000, "max_text_bytes"),
        ("a.bin", b"", "max_blob_bytes"),
        ("a.pdf", b"%PDF-", "max_blob_bytes"),
        ("data", b"\x00\x01", "max_blob_bytes"),
    ],
)
def test_a_gigabyte_is_refused_by_its_size_and_hardly_read(
    tmp_path: Path, name: str, first: bytes, setting: str
) -> None:
    path = sparse(tmp_path / name, GIGABYTE, first)
    tracemalloc.start()
    try:
        with pytest.raises(FileTooLarge, match=rf"{GIGABYTE} bytes.*limits\.{setting}") as caught:
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * PIECE_BYTES
    finally:
        tracemalloc.stop()
    assert (caught.value.size, caught.value.limit) == (GIGABYTE, 16 * 1024**2)


def test_a_bound_holds_exactly(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x" * 1000)
    assert len(load(path, max_text_bytes=1000, max_blob_bytes=10).data) == 1000
    with pytest.raises(FileTooLarge, match="max_text_bytes"):
        load(path, max_text_bytes=999, max_blob_bytes=5000)


def test_the_bound_is_that_of_what_the_file_holds_not_of_what_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\x00" * 100)
    assert read(tmp_path / "a.txt", max_text_bytes=10, max_blob_bytes=100).kind == "blob"
    with pytest.raises(FileTooLarge, match="max_blob_bytes"):
        load(tmp_path / "a.txt", max_text_bytes=1000, max_blob_bytes=99)


def test_one_long_line_is_read_and_cut_and_nothing_of_it_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "line.txt"
    path.write_bytes(b"word" * 1_000_000)
    text = read(path).text
    assert text is not None
    pieces = chunk(text, "text/plain", overlap_chars=0)
    assert "".join(text[piece.start : piece.end] for piece in pieces) == text


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def shorten(path: Path) -> None:
    os.truncate(path, PIECE_BYTES + 5)


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("change", [append, shorten, rewrite])
def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * 3 * PIECE_BYTES)
    left = [change]

    def meanwhile(_: int) -> None:
        if left:
            left.pop()(path)

    with pytest.raises(FileChanged, match="changed while it was read"):
        load(path, on_piece=meanwhile)
    assert load(path).data


def test_a_file_that_is_replaced_while_it_is_read_is_read_as_it_was(tmp_path: Path) -> None:
    """An editor that writes aside and renames disturbs nobody."""
    path, other = tmp_path / "a.txt", tmp_path / "b.txt"
    path.write_bytes(b"old")
    other.write_bytes(b"new one")

    def meanwhile(_: int) -> None:
        other.replace(path)

    assert load(path, on_piece=meanwhile).data == b"old"
    assert load(path).data == b"new one"


def test_a_file_that_grows_for_ever_ends_within_its_first_size(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"x" * 1000)
    with pytest.raises(FileChanged):
        load(path, on_piece=lambda _: append(path))


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs a file whose size is said to be nothing")
def test_a_file_whose_size_is_not_true_is_refused() -> None:
    with pytest.raises(FileChanged):
        load(Path("/proc/version"))


def test_reading_tells_of_each_piece_and_can_be_ended(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * (2 * PIECE_BYTES + 10))
    sizes: list[int] = []
    load(path, on_piece=sizes.append)
    assert (sum(sizes), max(sizes)) == (2 * PIECE_BYTES + 10, PIECE_BYTES)

    def enough(_: int) -> None:
        raise InterruptedError

    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    with pytest.raises(InterruptedError):
        load(path, on_piece=enough)
    after = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    assert before == after


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("secret")
    (tmp_path / "link.txt").symlink_to("real.txt")
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    for name in ("link.txt", "loop.txt"):
        with pytest.raises(NotRegularFile, match="symbolic link"):
            load(tmp_path / name)


def test_a_pipe_without_a_writer_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotRegularFile):
        load(tmp_path / "pipe")


def test_folders_devices_and_sockets_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/zero")):
        with pytest.raises(NotRegularFile):
            load(path)
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{folder}/s")
        with pytest.raises(OSError, match="No such device"):
            load(Path(folder) / "s")


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "absent")


def test_every_refusal_is_a_read_error() -> None:
    assert all(issubclass(kind, ReadError) for kind in (FileTooLarge, FileChanged, NotRegularFile))
