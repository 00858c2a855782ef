from __future__ import annotations

import os
from pathlib import Path

import pytest

from quantpipe.checkpoint.fetched import FileHashes
from quantpipe.fetch import reuse
from quantpipe.fetch.hub import RemoteFile
from quantpipe.fetch.snapshot import Snapshot
from quantpipe.fetch.stage import FetchStage
from quantpipe.host.procfs import start_of
from quantpipe.store.owner import Owner

from .conftest import MakeContext, model_files, read_files, write_files


@pytest.fixture
def snapshot(tmp_path: Path, make_context: MakeContext) -> Snapshot:
    source = write_files(tmp_path / "models" / "Tiny", model_files())
    context = make_context(source)
    return Snapshot(context.store.absolute(FetchStage().run(context).outputs.snapshot))


def test_partial_files_of_living_processes_stay(snapshot: Snapshot) -> None:
    me, parent = Owner.me(), os.getppid()
    living = f"x.{me.realm}-{parent}-{start_of(parent)}"
    others = (f"x.{me.token}", f"x.{me.realm}-{me.pid}-1", f"x.{'0' * 16}-1-1", "x.strange", "x")
    snapshot.partial.mkdir(exist_ok=True)
    for name in (living, *others):
        (snapshot.partial / name).write_bytes(b"1")
    reuse.sweep(snapshot, snapshot.files())
    assert [path.name for path in snapshot.partial.iterdir()] == [living]


def test_changed_inode_is_hashed_once_and_kept(snapshot: Snapshot) -> None:
    path = snapshot.path / "config.json"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    files = snapshot.files()
    hashed: list[int] = []
    kept = reuse.keep(snapshot, files, deep=False, jobs=1, on_bytes=hashed.append)
    assert kept == {file.path for file in files}
    assert sum(hashed) == len(data)
    assert reuse.keep(snapshot, files, deep=False, jobs=1, on_bytes=hashed.append) == kept
    assert sum(hashed) == len(data)


def test_file_without_any_known_hash_is_not_believed(snapshot: Snapshot) -> None:
    unknown = RemoteFile("config.json", (snapshot.path / "config.json").stat().st_size)
    snapshot.receipt_path("config.json").unlink()
    assert snapshot.recheck(unknown) is None


def test_link_takes_only_untouched_files(snapshot: Snapshot) -> None:
    victim = snapshot.path / "tokenizer.json"
    victim.chmod(0o644)
    victim.write_bytes(b"changed")
    other = Snapshot(snapshot.path.with_name("another"))
    files = snapshot.files()
    linked = reuse.link(other, files, jobs=1)
    assert linked == {file.path for file in files} - {"tokenizer.json"}
    assert all((other.path / path).samefile(snapshot.path / path) for path in linked)
    expected = model_files()
    del expected["tokenizer.json"]
    assert read_files(other.path) == expected
    assert all(other.finished(file) for file in files if file.path in linked)


def test_storage_without_hard_links(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "not supported")

    monkeypatch.setattr(os, "link", refuse)
    assert reuse.link(Snapshot(snapshot.path.with_name("another")), snapshot.files(), jobs=1) == set()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"file": {}}', '{"file": 1, "stamp": 2}'])
def test_damaged_receipt_is_no_receipt(snapshot: Snapshot, text: str) -> None:
    snapshot.receipt_path("config.json").write_text(text)
    file = next(file for file in snapshot.files() if file.path == "config.json")
    assert snapshot.finished(file) is None
    assert snapshot.recheck(file) is not None
    assert snapshot.finished(file) is not None


def test_a_rotten_file_is_linked_nowhere(snapshot: Snapshot) -> None:
    """A bit that flips on the storage changes neither size nor time: only a hash finds it."""
    victim = snapshot.path / "tokenizer.json"
    before = victim.stat()
    victim.chmod(0o644)
    victim.write_bytes(bytes([victim.read_bytes()[0] ^ 1]) + victim.read_bytes()[1:])
    victim.chmod(before.st_mode)
    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
    files = snapshot.files()
    rotten = next(file for file in files if file.path == "tokenizer.json")
    assert snapshot.finished(rotten) is not None
    other = Snapshot(snapshot.path.with_name("another"))
    assert reuse.link(other, files, jobs=1) == {file.path for file in files} - {"tokenizer.json"}
    assert snapshot.finished(rotten) is None, "its own snapshot still takes it for right"


def test_the_hashes_of_tensors_go_with_a_link(snapshot: Snapshot) -> None:
    other = Snapshot(snapshot.path.with_name("another"))
    linked = reuse.link(other, snapshot.files(), jobs=1)
    for path in linked:
        assert FileHashes.load(other.path, path) == FileHashes.load(snapshot.path, path) is not None
