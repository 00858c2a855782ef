from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path
from threading import Lock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantpipe.errors import VerificationError
from quantpipe.store import manifest
from quantpipe.store.manifest import FileEntry, Manifest

NAMES = st.lists(
    st.text("abcXYZ0-_.", min_size=1).filter(lambda s: s not in (".", "..")), min_size=1, max_size=3
)
ENTRIES = st.lists(
    st.builds(
        FileEntry,
        NAMES.map("/".join),
        st.integers(0, 1 << 50),
        st.binary(min_size=32, max_size=32).map(bytes.hex),
    ),
    unique_by=lambda entry: entry.path,
    max_size=6,
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "config.json").write_text("{}")
    (root / "sub" / "shard.bin").write_bytes(random.Random(1).randbytes(5 << 20))
    (root / "sub" / "deep" / "empty").touch()
    return root


def test_build_names_each_file_with_size_and_hash(tree: Path) -> None:
    built = manifest.build(tree, jobs=2)
    assert [entry.path for entry in built.entries] == ["config.json", "sub/deep/empty", "sub/shard.bin"]
    for entry in built.entries:
        content = (tree / entry.path).read_bytes()
        assert (entry.size, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert built.total_bytes == 2 + (5 << 20)


def test_every_byte_is_reported_once(tree: Path) -> None:
    seen, lock = [0], Lock()

    def count(more: int) -> None:
        with lock:
            seen[0] += more

    built = manifest.build(tree, jobs=3, on_bytes=count)
    assert seen[0] == built.total_bytes


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(ENTRIES, st.randoms())
def test_the_digest_depends_on_the_entries_and_not_on_their_order(
    entries: list[FileEntry], chance: random.Random
) -> None:
    shuffled = list(entries)
    chance.shuffle(shuffled)
    assert Manifest(tuple(shuffled)) == Manifest(tuple(entries))
    assert Manifest(tuple(shuffled)).digest() == Manifest(tuple(entries)).digest()


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(ENTRIES.filter(bool), st.data())
def test_any_change_changes_the_digest(entries: list[FileEntry], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(entries) - 1))
    old = entries[at]
    changed = data.draw(
        st.sampled_from(
            [
                [FileEntry(old.path + "~", old.size, old.sha256)],
                [FileEntry(old.path, old.size + 1, old.sha256)],
                [FileEntry(old.path, old.size, old.sha256[::-1] + "0")],
                [],
            ]
        )
    )
    others = entries[:at] + entries[at + 1 :]
    assert Manifest(tuple(others + changed)).digest() != Manifest(tuple(entries)).digest()


def test_the_digest_of_a_known_manifest_never_changes() -> None:
    """Golden: published directories are named by it."""
    known = Manifest((FileEntry("b/c", 2, "22" * 32), FileEntry("a", 1, "11" * 32)))
    text = (
        '[{"path":"a","sha256":"'
        + "11" * 32
        + '","size":1},{"path":"b/c","sha256":"'
        + "22" * 32
        + '","size":2}]'
    )
    assert known.digest() == hashlib.sha256(text.encode()).hexdigest()


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(ENTRIES)
def test_json_and_back(entries: list[FileEntry]) -> None:
    made = Manifest(tuple(entries))
    assert Manifest.from_json(made.to_json(), where="x") == made


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../b", "a//b", "./a", ".", "", "a/"])
def test_paths_that_lead_out_or_are_not_plain_are_refused(path: str) -> None:
    with pytest.raises(VerificationError, match="plain relative path"):
        FileEntry(path, 0, "")


def test_a_path_twice_is_refused() -> None:
    with pytest.raises(VerificationError, match="twice"):
        Manifest((FileEntry("a", 1, "x"), FileEntry("a", 2, "y")))


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"algorithm": "md5", "files": []},
        {"algorithm": "sha256", "files": [{"path": "a"}]},
        {"algorithm": "sha256", "files": [{"path": "a", "size": "many", "sha256": ""}]},
        {"algorithm": "sha256", "files": ["a"]},
    ],
)
def test_what_is_no_manifest_is_named_with_its_place(value: object) -> None:
    with pytest.raises(VerificationError, match="not a manifest") as caught:
        Manifest.from_json(value, where="there.json")
    assert caught.value.where == "there.json"
    assert caught.value.hint


def test_check_finds_each_way_to_differ(tree: Path) -> None:
    good = manifest.build(tree, jobs=1)
    assert manifest.check(tree, good, jobs=2) == []
    shard = tree / "sub" / "shard.bin"
    data = bytearray(shard.read_bytes())
    data[3 << 20] ^= 1
    shard.write_bytes(data)
    (tree / "config.json").write_text("{ }")
    (tree / "sub" / "deep" / "empty").unlink()
    (tree / "stray").touch()
    found = {mismatch.path: mismatch.problem for mismatch in manifest.check(tree, good, jobs=2)}
    assert found.keys() == {"config.json", "stray", "sub/deep/empty", "sub/shard.bin"}
    assert "3 bytes instead of 2" in found["config.json"]
    assert found["stray"] == "is not in the manifest"
    assert found["sub/deep/empty"] == "is missing"
    assert "sha256" in found["sub/shard.bin"]


def test_a_file_as_long_as_before_but_other_is_found(tree: Path) -> None:
    good = manifest.build(tree, jobs=1)
    (tree / "config.json").write_text("[]")
    assert [mismatch.path for mismatch in manifest.check(tree, good, jobs=1)] == ["config.json"]


def test_exclude_and_writes_in_flight_are_left_out(tree: Path) -> None:
    (tree / "sub" / ".tmp-123-x").touch()
    assert manifest.list_files(tree, exclude=["sub/deep", "config.json"]) == ["sub/shard.bin"]


@pytest.mark.parametrize("kind", ["file link", "folder link", "broken link", "fifo"])
def test_only_files_and_folders_are_taken(tree: Path, kind: str) -> None:
    odd = tree / "sub" / "odd"
    if kind == "fifo":
        os.mkfifo(odd)
    else:
        odd.symlink_to({"file link": "shard.bin", "folder link": "deep", "broken link": "none"}[kind])
    with pytest.raises(VerificationError) as caught:
        manifest.build(tree, jobs=1)
    assert caught.value.where == str(odd)


def test_a_folder_that_is_not_there_has_no_manifest(tmp_path: Path) -> None:
    """An empty manifest of a directory that vanished would vouch for nothing."""
    with pytest.raises(FileNotFoundError):
        manifest.build(tmp_path / "gone", jobs=1)


def test_a_folder_that_cannot_be_listed_is_an_error(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root reads everything, so the refusal is put in: os.walk() skips such a folder silently."""
    scandir = os.scandir

    def refusing(path: str | Path) -> object:
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(PermissionError):
        manifest.build(tree, jobs=1)
