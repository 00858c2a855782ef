"""A run that is killed, stopped or started over ends with the bytes of an undisturbed one."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.rot import flip

from ..engines import MOE, OTHER, Quantizer, files

MODEL = {**MOE, "num_hidden_layers": 5}


@pytest.fixture(scope="module")
def snapshot(quantizer: Quantizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantizer.make(tmp_path_factory.mktemp("resume") / "model", **MODEL)


@pytest.fixture(scope="module")
def whole(quantizer: Quantizer, snapshot: Path) -> Path:
    """An undisturbed run with two datasets."""
    out = snapshot.parent / "whole"
    assert quantizer.run(snapshot, out, smoothing=OTHER)["status"] == 0
    return out


def of_kind(done: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [event for event in done["events"] if event["event"] == kind]


def finished_units(out: Path) -> int:
    return len(list((out / "state").glob("unit-*.json")))


def test_killed_twenty_times_at_random(
    quantizer: Quantizer, snapshot: Path, whole: Path, tmp_path: Path
) -> None:
    chance = random.Random(7)
    full = quantizer.run(snapshot, tmp_path / "timing", smoothing=OTHER)["seconds"]
    out, kills, before = tmp_path / "out", 0, 0
    while kills < 20:
        how: dict[str, Any] = {"signal": "SIGKILL", "after_seconds": chance.uniform(0.05, full * 0.45)}
        done = quantizer.run(snapshot, out, smoothing=OTHER, **how)
        if done["status"] == 0:  # it got to its end before the signal: from the start again
            assert files(out / "checkpoint") == files(whole / "checkpoint")
            out, before = tmp_path / f"out-{kills}", 0
            continue
        assert done["status"] == -9
        kills += 1
        begun = [event["index"] for event in of_kind(done, "layer")]
        # The first layer that is done again is the one after the last finished unit, not one before it.
        assert not begun or begun[0] == max(before, 1)
        assert finished_units(out) >= before
        before = finished_units(out)
    assert quantizer.run(snapshot, out, smoothing=OTHER)["status"] == 0
    assert files(out / "checkpoint") == files(whole / "checkpoint")
    assert not list((out / "state").glob("boundary-*"))
    assert not list(out.rglob(".tmp-*"))


def test_sigterm_finishes_the_layer_in_work_and_exits_75(
    quantizer: Quantizer, snapshot: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    how: dict[str, Any] = {"signal": "SIGTERM", "after_event": '"index": 2'}
    stopped = quantizer.run(snapshot, out, smoothing=OTHER, **how)
    assert stopped["status"] == 75
    last = of_kind(stopped, "layer")[-1]["index"]
    assert finished_units(out) == last + 1  # the embedding, and all layers that had begun
    assert len(list((out / "state").glob("boundary-*"))) == 1
    resumed = quantizer.run(snapshot, out, smoothing=OTHER)
    assert resumed["status"] == 0
    assert of_kind(resumed, "resumed")[0]["units"] == last + 1
    assert [event["index"] for event in of_kind(resumed, "layer")] == list(range(last + 1, 6))
    assert files(out / "checkpoint") == files(whole / "checkpoint")


def test_a_finished_state_is_concluded_again(
    quantizer: Quantizer, snapshot: Path, whole: Path, tmp_path: Path
) -> None:
    """Killed after the last unit: shards may have their final names already."""
    out = tmp_path / "out"
    assert quantizer.run(snapshot, out, smoothing=OTHER)["status"] == 0
    (out / "checkpoint" / "model.safetensors.index.json").unlink()
    (out / "checkpoint" / "model-00003-of-00007.safetensors").rename(
        out / "checkpoint" / "unit-00002-000.safetensors"
    )
    again = quantizer.run(snapshot, out, smoothing=OTHER)
    assert again["status"] == 0
    assert not of_kind(again, "layer")
    assert files(out / "checkpoint") == files(whole / "checkpoint")


def interrupted(quantizer: Quantizer, snapshot: Path, out: Path, **options: Any) -> None:
    how: dict[str, Any] = {"signal": "SIGTERM", "after_event": '"index": 2'}
    assert quantizer.run(snapshot, out, **options, **how)["status"] == 75


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"identity": {"source": "b" * 64}}, "source"),
        ({"threads": 2}, "threads"),
        ({"exact": False}, "exact"),
        ({"identity": {"source": "a" * 64, "calibration prompts": "c"}}, "calibration prompts"),
    ],
    ids=["source", "threads", "exact", "prompts"],
)
def test_work_of_another_kind_is_given_up_by_name(
    quantizer: Quantizer, snapshot: Path, tmp_path: Path, options: dict[str, Any], named: str
) -> None:
    interrupted(quantizer, snapshot, tmp_path / "out", identity={"source": "a" * 64})
    units = finished_units(tmp_path / "out")
    done = quantizer.run(snapshot, tmp_path / "out", **{"identity": {"source": "a" * 64}, **options})
    assert done["status"] == 0
    given_up = of_kind(done, "discarded")[0]
    assert given_up["units"] == units
    assert [line.partition(":")[0] for line in given_up["differences"]] == [named]
    assert of_kind(done, "layer")[0]["index"] == 1


def test_paths_are_not_part_of_what_has_to_fit(
    quantizer: Quantizer, snapshot: Path, whole: Path, tmp_path: Path
) -> None:
    """A run takes over the staging directory of another one by renaming it."""
    interrupted(quantizer, snapshot, tmp_path / "before", smoothing=OTHER)
    (tmp_path / "after").mkdir()
    for part in ("checkpoint", "state"):
        (tmp_path / "before" / part).rename(tmp_path / "after" / part)
    done = quantizer.run(snapshot, tmp_path / "after", smoothing=OTHER)
    assert of_kind(done, "resumed")
    assert files(tmp_path / "after" / "checkpoint") == files(whole / "checkpoint")


@pytest.mark.parametrize("damage", ["shard", "boundary", "unit"])
def test_what_is_damaged_is_done_again(
    quantizer: Quantizer, snapshot: Path, whole: Path, tmp_path: Path, damage: str
) -> None:
    out = tmp_path / "out"
    interrupted(quantizer, snapshot, out, smoothing=OTHER)
    if damage == "shard":
        victim = out / "checkpoint" / "unit-00001-000.safetensors"
        victim.write_bytes(victim.read_bytes()[:-1])
    elif damage == "boundary":
        victim = next((out / "state").glob("boundary-*"))
        data = bytearray(victim.read_bytes())
        data[-1] ^= 1
        victim.write_bytes(data)
    else:
        (out / "state" / "unit-00001.json").write_text("{")
    done = quantizer.run(snapshot, out, smoothing=OTHER)
    assert done["status"] == 0
    assert of_kind(done, "layer")[0]["index"] == 1
    assert files(out / "checkpoint") == files(whole / "checkpoint")


def test_hashes_that_are_reported_are_those_of_the_files(whole: Path) -> None:
    shards = json.loads((whole / "state" / "shards.json").read_text())
    found = files(whole / "checkpoint")
    assert {name: shard["sha256"] for name, shard in shards.items()} == {
        name: digest for name, digest in found.items() if name.startswith("model-")
    }


# -- a bit that flips in a finished unit --------------------------------------------------------------

DEEP = {**MOE, "num_hidden_layers": 11}


@pytest.fixture(scope="module")
def deep(quantizer: Quantizer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A snapshot of 11 layers, and a run that was stopped in the ninth or later."""
    folder = tmp_path_factory.mktemp("deep")
    made, out = quantizer.make(folder / "model", **DEEP), folder / "out"
    how: dict[str, Any] = {"signal": "SIGTERM", "after_event": '"index": 9'}
    assert quantizer.run(made, out, smoothing=OTHER, **how)["status"] == 75
    assert finished_units(out) >= 10
    assert (out / "state" / "boundary-00008.safetensors").is_file()
    return made, out


@pytest.fixture(scope="module")
def deep_files(quantizer: Quantizer, deep: tuple[Path, Path]) -> dict[str, str]:
    out = deep[0].parent / "whole"
    assert quantizer.run(deep[0], out, smoothing=OTHER)["status"] == 0
    return files(out / "checkpoint")


@pytest.mark.parametrize(
    ("rotten", "again"),
    [([9], [9]), ([2], [1, 2]), ([0], []), ([1, 4], [1, 2, 3, 4])],
    ids=["after the kept boundary", "before it", "the embedding", "two"],
)
def test_a_bit_that_flips_in_a_unit_costs_the_units_since_a_kept_boundary(
    quantizer: Quantizer,
    deep: tuple[Path, Path],
    deep_files: dict[str, str],
    tmp_path: Path,
    rotten: list[int],
    again: list[int],
) -> None:
    snapshot, out = deep[0], tmp_path / "out"
    shutil.copytree(deep[1], out)
    finished = finished_units(out)
    for unit in rotten:
        flip(out / "checkpoint" / f"unit-{unit:05d}-000.safetensors", -1)
    done = quantizer.run(snapshot, out, smoothing=OTHER)
    assert done["status"] == 0
    [damaged] = of_kind(done, "damaged")
    assert damaged["units"] == rotten
    begun = [event["index"] for event in of_kind(done, "layer")]
    assert begun == [*again, *range(finished, 12)]
    assert files(out / "checkpoint") == deep_files


def test_killed_while_a_unit_is_repaired(
    quantizer: Quantizer, deep: tuple[Path, Path], deep_files: dict[str, str], tmp_path: Path
) -> None:
    snapshot, out = deep[0], tmp_path / "out"
    shutil.copytree(deep[1], out)
    for unit in (2, 5):
        flip(out / "checkpoint" / f"unit-{unit:05d}-000.safetensors", -1)
    killed = quantizer.run(snapshot, out, smoothing=OTHER, signal="SIGKILL", after_event='"index": 4')
    assert killed["status"] == -9
    done = quantizer.run(snapshot, out, smoothing=OTHER)
    assert done["status"] == 0
    assert of_kind(done, "damaged")[0]["units"] == [5]
    assert files(out / "checkpoint") == deep_files
    assert not list((out / "state").glob("boundary-*"))


def test_a_bit_that_flips_when_all_units_are_finished(
    quantizer: Quantizer, snapshot: Path, whole: Path, tmp_path: Path
) -> None:
    """Killed behind the last unit: shards have their final names, and all boundaries are gone."""
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    flip(out / "checkpoint" / "model-00003-of-00007.safetensors", -1)
    done = quantizer.run(snapshot, out, smoothing=OTHER)
    assert done["status"] == 0
    assert [event["index"] for event in of_kind(done, "layer")] == [1, 2]
    assert files(out / "checkpoint") == files(whole / "checkpoint")


def test_a_unit_that_comes_out_differently_takes_those_after_it_along(
    quantizer: Quantizer, deep: tuple[Path, Path], deep_files: dict[str, str], tmp_path: Path
) -> None:
    """As if the machine that made it had computed wrongly: its recorded hash is not that of the result."""
    snapshot, out = deep[0], tmp_path / "out"
    shutil.copytree(deep[1], out)
    unit = out / "state" / "unit-00002.json"
    value = json.loads(unit.read_text())
    value["shards"][0]["sha256"] = "0" * 64
    unit.write_text(json.dumps(value))
    done = quantizer.run(snapshot, out, smoothing=OTHER)
    assert done["status"] == 0
    assert [event["index"] for event in of_kind(done, "layer")] == [1, 2, *range(3, 12)]
    assert files(out / "checkpoint") == deep_files
