"""A scrub finds every byte and mode that changed at rest, in slices, and disturbs nobody."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.rot import flip
from helpers.stores import RECIPE, current, point, provenance, published, sealed, stage

from quantpipe.console import Console
from quantpipe.digest import hash_file
from quantpipe.errors import PreflightError, RetryableError, VerificationError
from quantpipe.fetch.hub import RemoteFile
from quantpipe.fetch.snapshot import FileReceipt, Snapshot, Stamp
from quantpipe.operate import scrub as module
from quantpipe.operate.budget import Budget
from quantpipe.operate.report import ScrubReport
from quantpipe.operate.scrub import scrub
from quantpipe.operate.snapshot_target import SnapshotTarget
from quantpipe.publish import retention
from quantpipe.store import damaged
from quantpipe.store.manifest import CARD, PROVENANCE
from quantpipe.store.sealed import glance_at_sealed
from quantpipe.store.store import Store
from quantpipe.store.verified import Verified

SHARD = "model.safetensors"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def done(store: Store, **options: Any) -> ScrubReport:
    return scrub(store, Console("quiet", stream=io.StringIO()), **options)


def found(report: ScrubReport) -> list[tuple[str, str]]:
    return [(difference.file, difference.problem.split()[1]) for difference in report.differences]


def snapshot(store: Store, files: dict[str, bytes], commit: str = "c" * 40) -> Snapshot:
    """A fetched snapshot."""
    made = Snapshot(store.snapshot("local", "owner/name", commit))
    made.path.mkdir(parents=True)
    remote = []
    for name, content in files.items():
        place = made.path / name
        place.write_bytes(content)
        digest = hash_file(place)
        remote.append(RemoteFile(name, len(content), digest))
        made._save(FileReceipt(remote[-1], Stamp.of(place), digest))
    made.begin(remote, {"commit": commit})
    return made


def test_an_empty_store(store: Store) -> None:
    store.root.mkdir()
    report = done(store)
    assert report.status == "clean"
    assert report.to_json()["complete"]


def test_an_intact_store_is_clean_and_remembers_when(store: Store) -> None:
    digest = published(store, "a")
    snapshot(store, {"config.json": b"{}", "sub.bin": b"x" * 100})
    before = store.clock()
    report = done(store)
    assert report.status == "clean"
    assert (report.generations, report.snapshots, report.read.files) == (1, 1, 4)
    since = Verified.of_generation(store.generation(RECIPE, digest)).since([SHARD, "sub/config.json"])
    assert since is not None and before <= since <= store.clock() + 1
    assert done(store, older_than=3600).recent.files == 4


def test_a_generation_with_a_model_card_is_clean(store: Store) -> None:
    staging, digest = stage(store, "a")
    store.seal(staging, RECIPE, digest, provenance(staging), card="# A model")
    assert (done(store).status, (store.generation(RECIPE, digest) / CARD).read_text()) == (
        "clean",
        "# A model",
    )


def test_a_flipped_bit_is_found_and_marked(store: Store) -> None:
    digest = published(store, "a")
    place = store.generation(RECIPE, digest)
    flip(place / SHARD, 500)
    report = done(store)
    assert report.status == "damaged"
    assert found(report) == [(SHARD, "sha256")]
    assert report.differences[0].directory == f"models/{RECIPE}/{digest}"
    assert [m.path for m in glance_at_sealed(place)] == [SHARD]
    with pytest.raises(VerificationError, match="damaged"):
        point(store, digest)


def test_a_mark_stays_a_difference_until_the_generation_is_intact(store: Store) -> None:
    place = store.generation(RECIPE, published(store, "a"))
    flip(place / SHARD, 500)
    assert done(store).status == "damaged"
    again = done(store, older_than=3600)
    assert found(again) == [(SHARD, "sha256")], "what is marked is read again whatever its age"
    flip(place / SHARD, 500)
    assert done(store, older_than=3600).status == "clean"
    assert damaged.marked(place) == []


def test_a_mark_that_the_budget_does_not_reach_is_a_difference_all_the_same(store: Store) -> None:
    place = store.generation(RECIPE, published(store, "a"))
    flip(place / SHARD, 500)
    assert done(store).status == "damaged"
    report = done(store, budget=Budget(seconds=-1.0))
    assert report.read.files == 0
    assert found(report) == [(SHARD, "sha256")]
    assert damaged.marked(place)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda p: (p / SHARD).unlink(), [(SHARD, "missing")]),
        (lambda p: (p / "more").write_text("x"), [("more", "not")]),
        (lambda p: (p / PROVENANCE).unlink(), [(PROVENANCE, "missing")]),
        (lambda p: (p / "link").symlink_to("sub"), [("link", "a")]),
    ],
    ids=["missing", "unexpected", "provenance", "link"],
)
def test_names(store: Store, change: Any, expected: list[tuple[str, str]]) -> None:
    place = store.generation(RECIPE, published(store, "a"))
    change(place)
    report = done(store)
    assert [name for name, _ in found(report) if "mode" not in _] == [name for name, _ in expected]
    assert damaged.marked(place)


def test_a_manifest_that_was_changed_with_its_files(store: Store) -> None:
    """The directory's name is the digest of its manifest: whoever changes both is found by the name."""
    place = store.generation(RECIPE, published(store, "a"))
    (place / SHARD).chmod(0o644)
    (place / SHARD).write_text("b" * 1000)
    (place / SHARD).chmod(0o444)
    value = json.loads((place / PROVENANCE).read_text())
    (place / PROVENANCE).chmod(0o644)
    [entry] = [file for file in value["manifest"]["files"] if file["path"] == SHARD]
    entry["sha256"] = hash_file(place / SHARD)
    (place / PROVENANCE).write_text(json.dumps(value))
    (place / PROVENANCE).chmod(0o444)
    report = done(store)
    assert [difference.file for difference in report.differences] == [PROVENANCE]
    assert "holds the manifest of" in report.differences[0].problem


@pytest.mark.parametrize(
    ("path", "mode"), [(SHARD, 0o644), ("sub", 0o777), (".", 0o700), (PROVENANCE, 0o400)]
)
def test_a_wrong_mode_is_a_difference_and_no_damage(store: Store, path: str, mode: int) -> None:
    place = store.generation(RECIPE, published(store, "a"))
    (place / path).chmod(mode)
    report = done(store)
    [difference] = report.differences
    assert difference.file == path
    assert difference.problem.startswith(f"has mode {mode:04o} instead of 0")
    assert "chmod" in difference.action
    assert damaged.marked(place) == []


def test_a_snapshot_file_that_rots_loses_its_receipt(store: Store) -> None:
    made = snapshot(store, {"config.json": b"{}", "weights.bin": b"x" * 1000})
    [config, weights] = made.files()
    assert made.finished(weights) is not None
    flip(made.path / "weights.bin", 10)
    assert made.finished(weights) is not None, "its stamp does not show it"
    report = done(store)
    assert found(report) == [("weights.bin", "sha256")]
    assert report.differences[0].subject == "snapshot"
    assert made.finished(weights) is None and made.finished(config) is not None
    assert made.recheck(weights) is None
    assert done(store).read.files == 1


def linked(store: Store) -> tuple[Snapshot, Snapshot]:
    """Snapshots of two commits: a shard is the same in both, and a hard link; the config is not."""
    old = snapshot(store, {"config.json": b"{}", "model.bin": b"x" * 1000}, "1" * 40)
    new = snapshot(store, {"config.json": b"[]", "model.bin": b"x" * 1000}, "2" * 40)
    (new.path / "model.bin").unlink()
    os.link(old.path / "model.bin", new.path / "model.bin")
    return old, new


def times(made: Snapshot) -> Verified:
    return Verified(made.path / ".quantpipe" / "scrub.json")


def test_what_two_snapshots_share_is_read_once_and_counts_for_both(store: Store) -> None:
    old, new = linked(store)
    report = done(store)
    assert (report.status, report.read.files, report.read.bytes) == ("clean", 4, 1004)
    assert times(old).time("model.bin") == times(new).time("model.bin") is not None
    late = done(store, older_than=3600)
    assert (late.read.files, late.recent.files, late.recent.bytes) == (0, 4, 1004)
    times(new).forget()
    again = done(store, older_than=3600)
    assert (again.read.files, again.read.bytes) == (3, 1002), "due in one is due"


def test_what_rots_in_one_rots_in_both(store: Store) -> None:
    made = linked(store)
    flip(made[0].path / "model.bin")
    report = done(store)
    assert [(d.directory, d.file) for d in report.differences] == [
        (store.relative(one.path), "model.bin") for one in made
    ]
    assert all(one.receipt("model.bin") is None for one in made)


def test_links_count_once_in_the_budget(store: Store) -> None:
    linked(store)
    report = done(store, budget=Budget(bytes=1004))
    assert (report.read.files, report.left.files) == (4, 0)


def test_a_link_that_a_run_replaces_meanwhile_is_not_taken_for_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = linked(store)
    check = SnapshotTarget.check

    def replaced(self: SnapshotTarget, path: str, count: Any) -> Any:
        result = check(self, path, count)
        (new.path / "x").write_bytes(b"y" * 1000)
        (new.path / "x").replace(new.path / "model.bin")
        return result

    monkeypatch.setattr(SnapshotTarget, "check", replaced)
    done(store)
    assert times(old).time("model.bin") is not None
    assert times(new).time("model.bin") is None


def test_links_that_are_to_have_different_contents_are_both_read(store: Store) -> None:
    old, new = linked(store)
    file = next(file for file in new.files() if file.path == "model.bin")
    new._save(FileReceipt(file, Stamp.of(new.path / "model.bin"), "0" * 64))
    report = done(store)
    assert [d.directory for d in report.differences] == [store.relative(new.path)]
    assert old.receipt("model.bin") is not None


def test_what_is_current_comes_first_and_then_what_was_verified_longest_ago(store: Store) -> None:
    for content in "abc":
        published(store, content)
    point(store, sorted(path.name for path in store.generation_folders(RECIPE))[1])
    snapshot(store, {"config.json": b"{}"})
    first = done(store, budget=Budget(bytes=1))
    assert (first.read.files, first.left.files) == (1, 6)
    chosen = current(store)
    assert chosen is not None
    assert Verified.of_generation(store.generation(RECIPE, chosen)).time(SHARD) is not None
    for _ in range(6):
        last = done(store, budget=Budget(bytes=1))
    assert done(store, older_than=3600).recent.files == 7, "slices go round: none is read twice before all"
    assert last.status == "clean"


def test_bytes_of_the_budget(store: Store) -> None:
    published(store, "a")
    report = done(store, budget=Budget(bytes=1000))
    assert (report.read.bytes, report.left.files) == (1000, 1)
    assert not report.to_json()["complete"]
    assert done(store, budget=Budget(bytes=1001)).left.files == 0


def test_time_of_the_budget(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for content in "abc":
        published(store, content)
    from quantpipe.store import sealed as looked_at

    def slow(path: Path, on_bytes: Any = None) -> str:
        time.sleep(0.2)
        return hash_file(path, on_bytes)

    monkeypatch.setattr(looked_at, "hash_file", slow)
    report = done(store, budget=Budget(seconds=0.3))
    assert 1 <= report.read.files < 6
    assert report.read.files + report.left.files == 6
    assert report.status == "clean"


def test_a_read_that_fails_is_no_mark(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    place = store.generation(RECIPE, published(store, "a"))
    from quantpipe.store import sealed as looked_at

    def failing(path: Path, on_bytes: Any = None) -> str:
        if path.name == SHARD:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return hash_file(path, on_bytes)

    monkeypatch.setattr(looked_at, "hash_file", failing)
    report = done(store)
    assert report.status == "unread"
    assert [type(error) for error in report.unread] == [RetryableError]
    assert SHARD in str(report.unread[0])
    assert report.read.files == 1
    assert damaged.marked(place) == []
    assert Verified.of_generation(place).time(SHARD) is None


def test_bytes_that_are_right_the_second_time_are_no_mark(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = store.generation(RECIPE, published(store, "a"))
    from quantpipe.store import sealed as looked_at

    reads: list[Path] = []

    def garbled_once(path: Path, on_bytes: Any = None) -> str:
        reads.append(path)
        return "0" * 64 if reads.count(path) == 1 and path.name == SHARD else hash_file(path, on_bytes)

    monkeypatch.setattr(looked_at, "hash_file", garbled_once)
    report = done(store)
    assert report.status == "unread"
    assert "right when it was read again" in report.unread[0].what
    assert damaged.marked(place) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(store: Store) -> None:
    place = store.generation(RECIPE, published(store, "a"))
    (place / SHARD).chmod(0)
    report = done(store)
    assert [type(error) for error in report.unread] == [PreflightError]


def test_a_generation_that_is_removed_meanwhile_is_passed_over(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(store, "a")
    published(store, "b")
    [old] = [generation for generation in store.generations(RECIPE) if not generation.current]
    from quantpipe.store import sealed as looked_at

    def removing(path: Path, on_bytes: Any = None) -> str:
        if path.is_relative_to(old.path):
            retention.remove(store, RECIPE, old)
        return hash_file(path, on_bytes)

    monkeypatch.setattr(looked_at, "hash_file", removing)
    report = done(store)
    assert report.status == "clean"
    assert report.read.files == 2
    assert not (store.model(RECIPE) / "damaged" / f"{old.digest}.json").exists()
    assert not (store.model(RECIPE) / "scrub" / f"{old.digest}.json").exists()


def test_a_copy_that_takes_the_place_meanwhile_is_not_marked(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = published(store, "a")
    place = store.generation(RECIPE, digest)
    flip(place / SHARD)
    from quantpipe.store import sealed as looked_at

    def healing(path: Path, on_bytes: Any = None) -> str:
        said = hash_file(path, on_bytes)
        if said != good and path.name == SHARD:
            staging, same = stage(store, "a")
            assert same == digest
            store.seal(staging, RECIPE, digest, provenance(staging), replace=True)
        return said

    good = next(e["sha256"] for e in json.loads((place / PROVENANCE).read_text())["manifest"]["files"])
    monkeypatch.setattr(looked_at, "hash_file", healing)
    assert done(store).status == "clean"
    assert damaged.marked(place) == []
    monkeypatch.undo()
    assert done(store).status == "clean"


def test_only_some_recipes(store: Store) -> None:
    flip(store.generation(RECIPE, published(store, "a")) / SHARD)
    assert done(store, recipes=["another"]).generations == 0
    assert done(store, recipes=[RECIPE]).status == "damaged"


def test_killed_in_the_middle_the_next_one_goes_on(store: Store, tmp_path: Path) -> None:
    place = store.generation(RECIPE, published(store, "a"))
    for content in "bcdefgh":
        sealed(store, content)
    flip(place / "sub/config.json", 0)
    program = tmp_path / "scrub.py"
    program.write_text(
        textwrap.dedent(
            f"""
            import time
            from pathlib import Path
            from quantpipe.console import Console
            from quantpipe.operate import scrub
            from quantpipe.store import sealed
            from quantpipe.store.store import Store
            hashed = sealed.hash_file
            def slow(path, on_bytes=None):
                time.sleep(0.1)
                return hashed(path, on_bytes)
            sealed.hash_file = slow
            scrub.SAVE_SECONDS = 0.0
            scrub.scrub(Store(Path({str(store.root)!r})), Console("json"))
            """
        )
    )
    process = subprocess.Popen([sys.executable, str(program)], stderr=subprocess.DEVNULL)
    scrubbed = store.model(RECIPE) / "scrub"
    deadline = time.monotonic() + 60
    while len(list(scrubbed.glob("[0-9a-f]*.json"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert damaged.marked(place), "it was current and so read first"
    rest = done(store, older_than=3600)
    assert 4 <= rest.recent.files < 15
    assert rest.recent.files + rest.read.files == 16
    assert found(rest) == [("sub/config.json", "sha256")]


def test_stopped_in_order_what_was_read_is_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for content in "abc":
        published(store, content)
    taken = module._Scrub._take
    seen: list[object] = []

    def stopping(self: Any, result: Any) -> None:
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(result)
        taken(self, result)

    monkeypatch.setattr(module._Scrub, "_take", stopping)
    with pytest.raises(KeyboardInterrupt):
        done(store)
    monkeypatch.undo()
    assert done(store, older_than=3600).recent.files == 3


def test_times_by_a_host_whose_clock_is_wrong_do_not_count(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(store, "a")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert done(store).read.files == 2
    assert done(store, older_than=3600).recent.files == 2
