from __future__ import annotations

from pathlib import Path

import pytest
from helpers.rot import flip
from helpers.stores import RECIPE, published

from quantpipe.digest import OnBytes, hash_file
from quantpipe.errors import RetryableError, VerificationError
from quantpipe.store import sealed
from quantpipe.store.damaged import mark, marked
from quantpipe.store.manifest import PROVENANCE, Mismatch
from quantpipe.store.sealed import check_sealed, glance_at_sealed, manifest_of
from quantpipe.store.store import Store
from quantpipe.store.verified import Verified


@pytest.fixture
def place(store: Store) -> Path:
    return store.generation(RECIPE, published(store, "a"))


def test_an_intact_generation_is_remembered(store: Store, place: Path) -> None:
    counted: list[int] = []
    assert check_sealed(place, clock=lambda: 7.0, jobs=2, on_bytes=counted.append) == []
    assert Verified.of_generation(place).since(manifest_of(place).paths()) == 7.0
    assert sum(counted) == manifest_of(place).total_bytes


def test_a_flipped_bit_is_marked(store: Store, place: Path) -> None:
    flip(place / "model.safetensors")
    assert glance_at_sealed(place) == []
    found = check_sealed(place, clock=store.clock)
    assert [mismatch.path for mismatch in found] == ["model.safetensors"]
    assert glance_at_sealed(place) == marked(place) == found


def test_of_what_is_marked_nothing_is_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark(place, [Mismatch("model.safetensors", "rotted")])
    monkeypatch.setattr(sealed, "hash_file", None)
    assert check_sealed(place, clock=lambda: 0.0) == [Mismatch("model.safetensors", "rotted")]


def test_a_read_that_is_right_the_second_time_is_no_damage(
    store: Store, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []

    def garbled_once(path: Path, on_bytes: OnBytes | None = None) -> str:
        reads.append(path)
        return "0" * 64 if len(reads) == 1 else hash_file(path, on_bytes)

    monkeypatch.setattr(sealed, "hash_file", garbled_once)
    with pytest.raises(RetryableError, match="right when it was read again"):
        check_sealed(place, clock=store.clock)
    assert marked(place) == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"manifest": 3}'])
def test_a_provenance_that_is_none(place: Path, text: str) -> None:
    (place / PROVENANCE).chmod(0o644)
    (place / PROVENANCE).write_text(text)
    with pytest.raises(VerificationError):
        manifest_of(place)
    [found] = glance_at_sealed(place)
    assert found.path == PROVENANCE and "cannot be read" in found.problem


def test_one_that_is_removed_while_it_is_read_is_missing_and_not_damaged(
    store: Store, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def removed(path: Path, on_bytes: OnBytes | None = None) -> str:
        place.rename(place.with_name(".tmp-grave"))
        return hash_file(path, on_bytes)

    monkeypatch.setattr(sealed, "hash_file", removed)
    assert [found.problem for found in check_sealed(place, clock=store.clock)] == ["is missing"]
    assert marked(place) == []


def test_one_that_is_replaced_while_it_is_read_is_read_again(
    store: Store, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replaced(path: Path, on_bytes: OnBytes | None = None) -> str:
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr(sealed, "hash_file", replaced)
    with pytest.raises(RetryableError, match="was replaced"):
        check_sealed(place, clock=store.clock)
    assert marked(place) == []
