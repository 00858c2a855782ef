from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
from pathlib import Path

import pytest
from helpers.stores import RECIPE, current, digests, point, provenance, published, sealed, stage

from quantpipe import durable
from quantpipe.errors import VerificationError
from quantpipe.store import manifest
from quantpipe.store.manifest import PROVENANCE
from quantpipe.store.store import Store

# -- sealing ------------------------------------------------------------------------------------------


def test_a_sealed_directory_is_named_by_its_manifest_and_read_only(store: Store) -> None:
    staging, digest = stage(store, "a")
    before = os.umask(0o077)
    try:
        target = store.seal(staging, RECIPE, digest, {"made": "here"})
    finally:
        os.umask(before)
    assert target.name == digest == manifest.build(target, jobs=1, exclude=[PROVENANCE]).digest()
    assert store.provenance(target) == {"made": "here"}
    assert not staging.exists()
    for path in [target, *target.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o444), path


def test_other_users_can_reach_it_whatever_the_umask(store: Store) -> None:
    before = os.umask(0o077)
    try:
        store.root.mkdir(mode=0o755)
        sealed(store, "a")
    finally:
        os.umask(before)
    for folder in (store.root / "models", store.model(RECIPE)):
        assert folder.stat().st_mode & 0o777 == 0o755


def test_rights_that_an_administrator_gave_are_kept(store: Store) -> None:
    store.model(RECIPE).mkdir(parents=True)
    store.model(RECIPE).chmod(0o2775)
    sealed(store, "a")
    assert store.model(RECIPE).stat().st_mode & 0o7777 == 0o2775


def test_sealing_equal_content_again_succeeds_and_changes_nothing(store: Store) -> None:
    digest = sealed(store, "a")
    before = (store.generation(RECIPE, digest) / PROVENANCE).stat()
    assert sealed(store, "a") == digest
    after = (store.generation(RECIPE, digest) / PROVENANCE).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert digests(store.generations(RECIPE)) == [digest]
    assert not [run for run in store.runs(RECIPE) if run.staging.exists()]


def test_what_a_killed_write_left_is_not_published(store: Store) -> None:
    staging, digest = stage(store, "a")
    (staging / f"{durable.TEMPORARY_PREFIX}dead-{PROVENANCE}").write_text("half")
    target = store.seal(staging, RECIPE, digest, provenance(staging))
    assert sorted(path.name for path in target.iterdir()) == [
        "model.safetensors",
        PROVENANCE,
        "sub",
    ]


def _seal_in_another_process(root: Path, staging: Path, digest: str, barrier: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    Store(root).seal(staging, RECIPE, digest, {"by": os.getpid()})


def test_two_hosts_that_seal_the_same_content_at_once_both_succeed(store: Store) -> None:
    """Two processes, started together: one directory, and no error in either."""
    spawning = multiprocessing.get_context("spawn")
    barrier = spawning.Barrier(2)
    stagings = [stage(store, "same") for _ in range(2)]
    hosts = [
        spawning.Process(target=_seal_in_another_process, args=(store.root, staging, digest, barrier))
        for staging, digest in stagings
    ]
    for host in hosts:
        host.start()
    for host in hosts:
        host.join(60)
    assert [host.exitcode for host in hosts] == [0, 0]
    target = store.generation(RECIPE, stagings[0][1])
    assert manifest.build(target, jobs=1, exclude=[PROVENANCE]).digest() == target.name


def test_the_loser_of_the_race_between_look_and_rename_succeeds_too(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging, digest = stage(store, "a")
    other, _ = stage(store, "a")
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        if self == staging:  # the other host seals just before
            monkeypatch.setattr(Path, "rename", rename)
            store.seal(other, RECIPE, digest, {"by": "other"})
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    target = store.seal(staging, RECIPE, digest, {"by": "me"})
    assert store.provenance(target) == {"by": "other"}
    assert not staging.exists()


def test_a_rename_that_fails_otherwise_is_an_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another filesystem, say: no copy is made instead, and the staging directory stays."""
    staging, digest = stage(store, "a")

    def refused(self: Path, target: Path) -> Path:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OSError, match="cross-device"):
        store.seal(staging, RECIPE, digest, provenance(staging))
    assert (staging / "model.safetensors").is_file()
    assert not store.generation(RECIPE, digest).exists()


def test_content_is_flushed_before_it_gets_its_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    staging, digest = stage(store, "a")
    done: list[str] = []
    rename = Path.rename
    monkeypatch.setattr(durable, "fsync_tree", lambda root: done.append("flush content"))
    monkeypatch.setattr(durable, "fsync_directory", lambda folder: done.append(f"flush {folder.name}"))

    def noted(self: Path, target: Path) -> Path:
        done.append("name")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", noted)
    store.seal(staging, RECIPE, digest, provenance(staging))
    assert done[-3:] == ["flush content", "name", f"flush {RECIPE}"]


# -- the pointer --------------------------------------------------------------------------------------


def test_a_follower_always_sees_a_whole_checkpoint(store: Store) -> None:
    """A reader follows `current` in a loop while it moves between two generations 300 times."""
    contents = {published(store, content): content for content in "ab"}
    wrong: list[str] = []
    seen: set[str] = set()
    stop = threading.Event()

    def follow() -> None:
        while not stop.is_set():
            try:
                # As a server does: the link is resolved once, then files are read.
                place = store.pointer(RECIPE).path.resolve(strict=True)
                content = (place / "sub" / "config.json").read_text()
                if content != contents[place.name] or not (place / "model.safetensors").is_file():
                    wrong.append(f"{place}: {content}")
                seen.add(content)
            except OSError as error:
                wrong.append(repr(error))

    reader = threading.Thread(target=follow)
    reader.start()
    for _ in range(150):
        for digest in contents:
            point(store, digest)
    stop.set()
    reader.join()
    assert wrong == []
    assert seen == {"a", "b"}


def test_the_pointer_is_a_relative_link_so_that_the_store_can_be_moved(store: Store, tmp_path: Path) -> None:
    digest = published(store, "a")
    assert str(store.pointer(RECIPE).path.readlink()) == digest
    shutil.move(store.root, tmp_path / "elsewhere")
    assert current(Store(tmp_path / "elsewhere")) == digest


def test_pointing_flushes_the_folder_after_the_rename(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = sealed(store, "a")
    at_flush: list[str | None] = []
    monkeypatch.setattr(durable, "fsync_directory", lambda folder: at_flush.append(current(store)))
    point(store, digest)
    assert at_flush[-1] == digest and at_flush.count(digest) == 1  # the history was flushed before


def test_nothing_is_current_before_the_first_publish(store: Store) -> None:
    assert store.current(RECIPE) is None
    sealed(store, "a")
    assert store.current(RECIPE) is None
    assert store.load_receipts(RECIPE, "a" * 64) == {}
    assert list(store.published_receipts(RECIPE)) == []


def test_the_pointer_never_names_what_is_not_there(store: Store) -> None:
    digest = published(store, "a")
    with pytest.raises(VerificationError, match="does not exist"):
        point(store, "0" * 64)
    assert current(store) == digest
    assert not list(store.model(RECIPE).glob(".tmp-*"))


def test_a_pointer_that_is_no_link_is_explained(store: Store) -> None:
    """`cp -rL` of a store makes a directory of it."""
    sealed(store, "a")
    store.pointer(RECIPE).path.mkdir()
    with pytest.raises(VerificationError, match="not a link") as caught:
        store.current(RECIPE)
    assert caught.value.where == str(store.pointer(RECIPE).path)


# -- generations ------------------------------------------------------------------------------------------


def test_a_generation_that_vanishes_while_they_are_listed_is_passed_over(store: Store) -> None:
    digest = published(store, "a")
    (store.model(RECIPE) / ("f" * 64)).mkdir()
    assert digests(store.generations(RECIPE)) == [digest]


def test_what_is_not_a_generation_is_not_listed(store: Store) -> None:
    digest = published(store, "a")
    (store.model(RECIPE) / "notes.txt").touch()
    (store.model(RECIPE) / "by-hand").mkdir()
    assert digests(store.generations(RECIPE)) == [digest]


# -- paths, runs, provenance --------------------------------------------------------------------------


def test_receipts_of_a_generation(store: Store) -> None:
    digest = published(store, "b")
    assert set(store.load_receipts(RECIPE, digest)) == {"fetch"}


def test_receipts_of_the_current_generation_come_first(store: Store) -> None:
    first, second = published(store, "a"), published(store, "b")
    sealed(store, "never published")
    assert [r.fetch.outputs.commit for r in store.published_receipts(RECIPE)] == [second, first]
    point(store, first)
    assert [r.fetch.outputs.commit for r in store.published_receipts(RECIPE)] == [first, second]


def test_damaged_receipts_are_named(store: Store) -> None:
    digest = published(store, "a")
    path = store.receipts_path(RECIPE, digest)
    path.write_text("{")
    with pytest.raises(VerificationError) as caught:
        store.load_receipts(RECIPE, digest)
    assert caught.value.where == str(path)


def test_runs_sort_by_their_beginning_even_within_a_second(store: Store) -> None:
    made = [store.new_run(RECIPE).id for _ in range(20)]
    assert [run.id for run in store.runs(RECIPE)] == made


def test_provenance_of_foreign_and_of_damaged_directories(store: Store, tmp_path: Path) -> None:
    assert store.provenance(tmp_path) is None
    (tmp_path / PROVENANCE).write_text("no json")
    with pytest.raises(VerificationError, match="not JSON"):
        store.provenance(tmp_path)


def test_looking_makes_nothing(store: Store) -> None:
    assert store.recipes() == [] and store.runs(RECIPE) == [] and store.generations(RECIPE) == []
    assert not store.root.exists()


def test_recipes_with_runs_or_with_checkpoints(store: Store) -> None:
    published(store, "a")
    store.new_run("other")
    assert store.recipes() == ["other", RECIPE]


def test_relative_paths_survive_another_mount(store: Store, tmp_path: Path) -> None:
    path = store.snapshot("modelscope", "Qwen/Qwen3-32B", "c0ffee")
    relative = store.relative(path)
    assert relative == "sources/modelscope/Qwen--Qwen3-32B/c0ffee"
    assert Store(tmp_path / "mnt").absolute(relative) == tmp_path / "mnt" / relative
