"""The pointer under removals and moves by others: it ends at a generation that is there."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from helpers.stores import RECIPE, current, point, published, sealed

from quantpipe.errors import RetryableError, VerificationError
from quantpipe.publish import retention
from quantpipe.store.history import History, Move
from quantpipe.store.pointer import Pointer
from quantpipe.store.sealed import glance_at_sealed
from quantpipe.store.store import Store


def test_a_generation_that_is_removed_during_the_move_does_not_stay_current(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollback to a has looked that a is there; retention on another host removes it just then."""
    first, second = published(store, "a"), published(store, "b")
    victim = next(g for g in store.generations(RECIPE) if g.digest == first)
    replace = Pointer._replace

    def raced(self: Pointer, digest: str) -> None:
        monkeypatch.setattr(Pointer, "_replace", replace)
        retention.remove(store, RECIPE, victim)
        replace(self, digest)

    monkeypatch.setattr(Pointer, "_replace", raced)
    with pytest.raises(RetryableError, match="was removed while the pointer moved"):
        retention.rollback(store, RECIPE)
    assert current(store) == second
    assert not retention.held(store, RECIPE, second)
    assert [move.action for move in store.pointer(RECIPE).history.moves()][-2:] == ["rollback", "restore"]


def test_where_the_one_before_is_gone_too_an_earlier_one_is_named(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    oldest, second, third = (published(store, content) for content in "abc")
    newest = sealed(store, "d")
    replace = Pointer._replace

    def raced(self: Pointer, digest: str) -> None:
        monkeypatch.setattr(Pointer, "_replace", replace)
        for gone in (newest, third, second):
            shutil.rmtree(store.generation(RECIPE, gone))
        replace(self, digest)

    monkeypatch.setattr(Pointer, "_replace", raced)
    with pytest.raises(RetryableError):
        point(store, newest)
    assert current(store) == oldest


def test_a_move_expects_what_the_pointer_named(store: Store) -> None:
    first, second = published(store, "a"), published(store, "b")
    third = sealed(store, "c")
    with pytest.raises(RetryableError, match="has moved"):
        store.pointer(RECIPE).move(Move.of_now(third, "publish", previous=first))
    assert current(store) == second
    assert store.pointer(RECIPE).history.digests() == [first, second]


@pytest.mark.parametrize("name", ["model.safetensors", "sub/config.json", "quantpipe.json"])
def test_what_lacks_a_file_is_not_pointed_at(store: Store, name: str) -> None:
    first, second = published(store, "a"), sealed(store, "b")
    (store.generation(RECIPE, second) / name).unlink()
    with pytest.raises(VerificationError) as caught:
        point(store, second)
    assert str(store.generation(RECIPE, second)) in (caught.value.where or "")
    assert current(store) == first


def test_pointing_at_what_is_current_moves_nothing(store: Store) -> None:
    first = published(store, "a")
    point(store, first)
    assert store.pointer(RECIPE).history.digests() == [first]


@pytest.mark.parametrize("hangs_in", ["record", "_replace"])
def test_a_move_that_hung_gives_way_to_a_later_one(
    store: Store, monkeypatch: pytest.MonkeyPatch, hangs_in: str
) -> None:
    """Its checks are minutes old when the mount responds again, and another host has published meanwhile."""
    published(store, "a")
    older, newer = sealed(store, "b"), sealed(store, "c")
    owner: Any = History if hangs_in == "record" else Pointer
    real = getattr(owner, hangs_in)

    def hung(self: Any, *arguments: Any) -> Any:
        monkeypatch.setattr(owner, hangs_in, real)
        point(store, newer)
        return real(self, *arguments)

    monkeypatch.setattr(owner, hangs_in, hung)
    with pytest.raises(RetryableError):
        point(store, older)
    assert current(store) == newer
    assert older not in store.pointer(RECIPE).order()


def test_a_fault_of_the_storage_is_not_taken_for_a_pointer_that_is_no_link(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(store, "a")

    def failed(self: Path) -> Path:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(self))

    monkeypatch.setattr(Path, "readlink", failed)
    with pytest.raises(OSError) as caught:
        store.pointer(RECIPE).named()
    assert caught.value.errno == errno.EIO


WORKER = """
import random, sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from helpers.stores import RECIPE, point, published, stage
from quantpipe.errors import QuantpipeError
from quantpipe.publish import retention
from quantpipe.store.store import Store
store, chance = Store(Path(sys.argv[1])), random.Random(int(sys.argv[2]))
done = 0
for turn in range(60):
    try:
        match chance.randrange(3):
            case 0:
                published(store, chance.choice("abcde"))
            case 1:
                retention.rollback(store, RECIPE)
            case 2:
                for generation in retention.expired(store, RECIPE, 2, grace=-1):
                    retention.remove(store, RECIPE, generation)
        done += 1
    except (QuantpipeError, ValueError):
        pass
print(done)
"""


def test_three_processes_publish_roll_back_and_remove(store: Store, tmp_path: Path) -> None:
    """Whatever they do to one another, the pointer ends at a whole generation."""
    published(store, "a")
    seed = random.randrange(1 << 16)
    command = [sys.executable, "-c", textwrap.dedent(WORKER), str(store.root)]
    tests = str(Path(__file__).parents[1])
    running = [
        subprocess.Popen(
            [*command, str(seed + n), tests], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for n in range(3)
    ]
    ended = [process.communicate(timeout=120) for process in running]
    assert [error for _, error in ended] == ["", "", ""], f"seed {seed}"
    assert all(int(done) > 10 for done, _ in ended), f"seed {seed}"
    place = store.current(RECIPE)
    assert place is not None, f"seed {seed}"
    assert glance_at_sealed(place) == []
