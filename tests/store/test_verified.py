from __future__ import annotations

from pathlib import Path

import pytest

from quantpipe.store.verified import Verified


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "scrub" / "digest.json"


def test_times_are_kept(place: Path) -> None:
    verified = Verified(place)
    assert verified.time("a") is None
    verified.set("a", 3.0)
    verified.set("b", 2.0)
    verified.save()
    again = Verified(place)
    assert (again.time("a"), again.since(["a", "b"])) == (3.0, 2.0)
    assert again.since(["a", "b", "c"]) is None
    assert again.since([]) is None


def test_two_hosts_add_to_one_another(place: Path) -> None:
    one, other = Verified(place), Verified(place)
    one.set("a", 1.0)
    one.save()
    other.set("b", 2.0)
    other.save()
    assert Verified(place).since(["a", "b"]) == 1.0


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"files": 3}', '{"files": {"a": "x"}}', '{"files": {"a": null}}']
)
def test_what_cannot_be_read_means_never(place: Path, text: str) -> None:
    place.parent.mkdir()
    place.write_text(text)
    assert Verified(place).time("a") is None


def test_forgetting(place: Path) -> None:
    verified = Verified(place)
    verified.set("a", 1.0)
    verified.save()
    verified.forget()
    assert verified.time("a") is None and not place.exists()
    verified.forget()
    verified.save()
    assert not place.exists()
