from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quantpipe import durable

WRITER = """
import sys
from pathlib import Path
from quantpipe import durable
path = Path(sys.argv[1])
print("ready", flush=True)
number = 0
while True:
    number += 1
    durable.write_bytes(path, (b"%08d" % number) * 65536)
"""


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(durable.TEMPORARY_PREFIX)]


def test_content_and_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        durable.write_json(tmp_path / "a.json", {"ключ": 1})
        durable.write_bytes(tmp_path / "b", b"x", mode=0o444)
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").read_text("utf-8") == '{\n  "ключ": 1\n}\n'
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o444
    assert not leftovers(tmp_path)


def test_an_error_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    durable.write_bytes(path, b"old")
    with pytest.raises(RuntimeError, match="half way"), durable.replacing(path) as temporary:
        temporary.write_bytes(b"ne")
        raise RuntimeError("half way")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_fault_of_cleaning_up_is_none_of_the_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "unlink", fail)
    durable.write_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    with pytest.raises(RuntimeError, match="half way"), durable.replacing(tmp_path / "file") as temporary:
        temporary.write_bytes(b"ne")
        raise RuntimeError("half way")


def test_the_file_is_flushed_before_the_rename_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(durable, "fsync_file", lambda path: done.append("file"))
    monkeypatch.setattr(durable, "fsync_directory", lambda path: done.append(f"folder {path.name}"))
    replace = Path.replace

    def noted(self: Path, target: Path) -> Path:
        done.append("rename")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", noted)
    durable.write_bytes(tmp_path / "x", b"1")
    assert done == ["file", "rename", f"folder {tmp_path.name}"]


def test_a_killed_writer_leaves_whole_content(tmp_path: Path) -> None:
    """Old or new, never a mixture: the writer is killed at twelve random instants."""
    path = tmp_path / "state"
    for attempt in range(12):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.01 + 0.007 * attempt)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        if path.exists():
            data = path.read_bytes()
            assert len(data) == 8 * 65536
            assert data == data[:8] * 65536
    assert path.exists()


def test_fsync_tree_reaches_every_file_and_folder_children_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "deep").touch()
    (tmp_path / "top").touch()
    done: list[str] = []
    monkeypatch.setattr(durable, "fsync_file", lambda path: done.append(path.name))
    monkeypatch.setattr(durable, "fsync_directory", lambda path: done.append(path.name))
    durable.fsync_tree(tmp_path)
    assert sorted(done) == sorted(["deep", "b", "a", "top", tmp_path.name])
    assert done.index("deep") < done.index("b") < done.index("a") < done.index(tmp_path.name)


def test_fsync_of_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        durable.fsync_file(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        durable.fsync_directory(tmp_path / "none")


@pytest.mark.parametrize("atomic", [True, False])
def test_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atomic: bool) -> None:
    if not atomic:
        monkeypatch.setattr(durable, "_renameat2", lambda one, other: False)
    for name in ("new", "place"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    durable.exchange(tmp_path / "new", tmp_path / "place", tmp_path / "aside")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["aside", "place"]
    assert (tmp_path / "place" / "file").read_text() == "new"
    assert (tmp_path / "aside" / "file").read_text() == "place"


def test_exchange_is_atomic_for_a_reader_here(tmp_path: Path) -> None:
    for name in ("new", "place"):
        (tmp_path / name).mkdir()
    assert durable._renameat2(tmp_path / "new", tmp_path / "place")


def test_a_failed_exchange_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "_renameat2", lambda one, other: False)
    (tmp_path / "place").mkdir()
    with pytest.raises(FileNotFoundError):
        durable.exchange(tmp_path / "absent", tmp_path / "place", tmp_path / "aside")
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_a_swept_temporary_name_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes may work in one folder without a lease: the sweep of one meets the other's write."""
    flush = durable.fsync_file
    swept: list[Path] = []

    def sweep(path: Path) -> None:
        flush(path)
        if len(swept) < 2:
            swept.append(path)
            path.unlink()

    monkeypatch.setattr(durable, "fsync_file", sweep)
    durable.write_bytes(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    assert len(swept) == 2


def test_a_folder_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        durable.write_bytes(tmp_path / "absent" / "file", b"content")


def test_reading_ends_at_the_limit(tmp_path: Path) -> None:
    place = tmp_path / "a"
    place.write_bytes(b"x" * 100)
    assert durable.read_bytes(place, most=100) == b"x" * 100
    with pytest.raises(ValueError, match="100 bytes, more than 99"):
        durable.read_bytes(place, most=99)
    with pytest.raises(FileNotFoundError):
        durable.read_bytes(tmp_path / "none", most=1)


def test_a_file_without_a_size_is_read_to_the_limit_only() -> None:
    proc = Path("/proc/self/status")  # a regular file of 0 bytes, which has content
    with pytest.raises(ValueError, match="11 bytes, more than 10"):
        durable.read_bytes(proc, most=10)


def test_only_plain_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ValueError, match="not a plain file"):
            durable.read_bytes(path, most=10)


@pytest.mark.parametrize("do", ["walk", "fsync_tree"])
def test_a_folder_that_cannot_be_listed_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, do: str
) -> None:
    (tmp_path / "below").mkdir()
    scandir = os.scandir

    def failing(path: str) -> object:
        if Path(path).name == "below":
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(OSError) as caught:
        list(durable.walk(tmp_path)) if do == "walk" else durable.fsync_tree(tmp_path)
    assert caught.value.errno == errno.EIO


def test_a_bound_takes_no_memory_of_its_size(tmp_path: Path) -> None:
    """`read(1 << 50)` would."""
    (tmp_path / "a").write_bytes(b"abc" * 200_000)
    assert durable.read_bytes(tmp_path / "a", most=1 << 50) == b"abc" * 200_000
    with (tmp_path / "a").open("rb") as file:
        assert durable.read_at_most(file, 400_000) == (b"abc" * 200_000)[:400_000]
