from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path

import pytest

from quantpipe.fetch.hub import RemoteFile, Stopped
from quantpipe.fetch.partial import Partial, file_id
from quantpipe.host.procfs import start_of
from quantpipe.store.owner import Owner

DATA = bytes(range(256)) * 40
FILE = RemoteFile("a/x.bin", len(DATA), hashlib.sha256(DATA).hexdigest())
DEAD = f"{Owner.me().realm}-{Owner.me().pid}-{Owner.me().start - 1}"
ELSEWHERE = f"{'0' * 16}-1-1"


def make(folder: Path, file: RemoteFile = FILE, stop: threading.Event | None = None) -> Partial:
    partial = Partial(
        folder, file, stop=stop or threading.Event(), on_landed=lambda n: None, on_alive=lambda n: None
    )
    partial.open()
    return partial


def test_grows_and_is_right(tmp_path: Path) -> None:
    partial = make(tmp_path)
    partial.write(DATA[:100])
    assert partial.mismatch() is not None
    partial.write(memoryview(DATA)[100:])
    assert partial.mismatch() is None
    assert partial.sha256 == FILE.sha256
    stamp = partial.flush()
    partial.close()
    assert stamp.size == len(DATA)
    assert partial.path.stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize("owner", [DEAD, "no-owner"], ids=["dead", "unknown"])
def test_what_a_dead_process_left_is_continued(tmp_path: Path, owner: str) -> None:
    old = tmp_path / f"{file_id(FILE)}.{owner}"
    old.write_bytes(DATA[:5000])
    inode = old.stat().st_ino
    partial = make(tmp_path)
    assert partial.offset == 5000
    assert not old.exists()
    assert partial.path.stat().st_ino == inode, "taken over, not copied"
    partial.write(DATA[5000:])
    assert partial.mismatch() is None
    partial.close()


def test_what_another_host_may_still_write_is_copied(tmp_path: Path) -> None:
    old = tmp_path / f"{file_id(FILE)}.{ELSEWHERE}"
    old.write_bytes(DATA[:5000])
    partial = make(tmp_path)
    assert partial.offset == 5000
    with old.open("r+b") as zombie:
        zombie.write(b"garbage")
    partial.write(DATA[5000:])
    assert partial.mismatch() is None
    assert partial.path.read_bytes() == DATA
    partial.close()


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    parent = os.getppid()
    living = tmp_path / f"{file_id(FILE)}.{Owner.me().realm}-{parent}-{start_of(parent)}"
    living.write_bytes(DATA[:5000])
    partial = make(tmp_path)
    assert partial.offset == 0
    assert living.read_bytes() == DATA[:5000]
    partial.close()


def test_the_longest_one_is_continued(tmp_path: Path) -> None:
    for pid, size in ((1, 100), (2, 300), (3, 200)):
        (tmp_path / f"{file_id(FILE)}.{Owner.me().realm}-{pid}-1").write_bytes(DATA[:size])
    partial = make(tmp_path)
    assert partial.offset == 300
    partial.close()


def test_longer_than_the_file_begins_again(tmp_path: Path) -> None:
    (tmp_path / f"{file_id(FILE)}.{DEAD}").write_bytes(DATA + b"x")
    partial = make(tmp_path)
    assert partial.offset == 0
    partial.close()


def test_garbage_is_found_by_the_hash(tmp_path: Path) -> None:
    (tmp_path / f"{file_id(FILE)}.{DEAD}").write_bytes(b"\0" * 5000)
    partial = make(tmp_path)
    partial.write(DATA[5000:])
    assert "sha256" in (partial.mismatch() or "")
    partial.discard()
    assert list(tmp_path.iterdir()) == []


def test_git_blob_id(tmp_path: Path) -> None:
    blob = hashlib.sha1(b"blob %d\0" % len(DATA) + DATA).hexdigest()
    partial = make(tmp_path, RemoteFile("x", len(DATA), None, blob))
    partial.write(DATA)
    assert partial.mismatch() is None
    partial.close()
    wrong = make(tmp_path, RemoteFile("y", len(DATA), None, blob[::-1]))
    wrong.write(DATA)
    assert blob in (wrong.mismatch() or "")
    wrong.close()


def test_stop_ends_the_next_step(tmp_path: Path) -> None:
    stop, aborted = threading.Event(), []
    partial = make(tmp_path, stop=stop)
    partial.write(DATA[:10])
    stop.set()
    with pytest.raises(Stopped):
        partial.write(DATA[10:])
    partial.on_abort(lambda: aborted.append(1))
    assert aborted == [1]
    partial.close()


def test_restart_leaves_the_old_file_to_whoever_holds_it(tmp_path: Path) -> None:
    partial = make(tmp_path)
    partial.write(DATA[:10])
    inode = partial.path.stat().st_ino
    partial.path.with_name("held").hardlink_to(partial.path)
    partial.restart()
    assert partial.offset == 0
    assert partial.path.stat().st_ino != inode
    partial.close()


def test_a_close_that_fails_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS reports there what became of earlier writes; the descriptor is free, and may be another file's."""
    partial = make(tmp_path)
    close = os.close

    def failing(descriptor: int) -> None:
        close(descriptor)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "close", failing)
    with pytest.raises(OSError) as caught:
        partial.close()
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.setattr(os, "close", close)
    partial.close()
