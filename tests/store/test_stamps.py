"""What was verified is what is sealed: somebody else writes in staging meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.stores import RECIPE, stage

from quantpipe import durable
from quantpipe.errors import VerificationError
from quantpipe.store.stamps import Stamps
from quantpipe.store.store import Store

Change = Callable[[Path], object]


def swap(staging: Path) -> None:
    """Two files of the same size get each other's names."""
    for old, new in (("1", "0"), ("2", "1"), ("0", "2")):
        (staging / old).rename(staging / new)


def forge(staging: Path) -> None:
    """Other bytes, with the same size and mtime."""
    before = (staging / "1").stat()
    (staging / "1").write_text("x")
    os.utime(staging / "1", ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: list[tuple[Change, str, str]] = [
    (swap, "1", "changed"),
    (forge, "1", "changed"),
    (lambda staging: (staging / "2").write_text("x"), "2", "changed"),
    (lambda staging: (staging / "2").unlink(), "2", "removed"),
    (lambda staging: (staging / "sub" / "new").touch(), "sub/new", "added"),
]


@pytest.fixture
def staging(store: Store) -> Path:
    path, _ = stage(store, "a")
    for name in ("1", "2"):
        (path / name).write_text(name)
    return path


def refused(store: Store, staging: Path, verified: Stamps, file: str, how: str) -> None:
    with pytest.raises(VerificationError, match=f"was {how} after it was verified") as caught:
        store.seal(staging, RECIPE, "0" * 64, {}, verified=verified)
    assert caught.value.where == str(staging / file)
    assert store.generations(RECIPE) == []
    assert staging.is_dir(), "the work is kept"


@pytest.mark.parametrize(("change", "file", "how"), CHANGES)
def test_whoever_changes_something_after_it_was_verified_is_found_out(
    store: Store, staging: Path, change: Change, file: str, how: str
) -> None:
    verified = Stamps.of(staging)
    change(staging)
    refused(store, staging, verified, file, how)


def test_so_is_who_had_a_file_open_and_writes_while_all_is_flushed(
    store: Store, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = durable.fsync_tree
    with (staging / "1").open("r+") as held:

        def meanwhile(folder: Path) -> None:
            flush(folder)
            held.write("x")
            held.flush()

        monkeypatch.setattr(durable, "fsync_tree", meanwhile)
        refused(store, staging, Stamps.of(staging), "1", "changed")


def test_without_a_change_it_is_sealed(store: Store, staging: Path) -> None:
    verified = Stamps.of(staging)
    (staging / "1").read_text()
    (staging / ".tmp-1").touch()
    (staging / "quantpipe.json").touch()
    assert store.seal(staging, RECIPE, "0" * 64, {}, verified=verified).is_dir()
