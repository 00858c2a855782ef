"""Engine streaming through the command: stopped, killed and taken over, it ends with the same checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import QUANTPIPE, environment, quantpipe, write_recipe

from quantpipe.recipe.load import load_recipe
from quantpipe.store.quality import read_quality


@pytest.fixture(scope="session")
def recipe(small_recipe: Path) -> Path:
    assert load_recipe(small_recipe).quantize.engine == "streaming"
    return small_recipe


@pytest.fixture(scope="session")
def whole(_quantized: Path) -> dict[str, Any]:
    """The receipt of an undisturbed run."""
    return receipt(_quantized)


def receipt(store: Path) -> dict[str, Any]:
    """The quantize receipt of the newest run."""
    newest = sorted(store.glob("runs/*/*/receipts/quantize.json"))[-1]
    value: dict[str, Any] = json.loads(newest.read_text())
    return value


def worker_events(store: Path) -> list[dict[str, Any]]:
    found = []
    for path in store.glob("runs/*/*/events.jsonl"):
        for line in path.read_text().splitlines():
            if line.endswith("}") and '"worker"' in line:
                found.append(json.loads(line)["worker"])
    return found


def interrupt(recipe: Path, store: Path, number: signal.Signals) -> int:
    """Start a run, send the signal to quantpipe when the first layer is in progress, wait for its end."""
    command = [str(QUANTPIPE), "run", str(recipe), "--store", str(store), "--until", "quantize", "-q"]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not any(isinstance(e, dict) and e.get("event") == "layer" for e in worker_events(store)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, number)
    return process.wait(300)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_is_continued_to_the_same_bytes(
    recipe: Path, whole: dict[str, Any], tmp_path: Path, number: signal.Signals
) -> None:
    store = tmp_path / "store"
    status = interrupt(recipe, store, number)
    assert status in ((75, 0) if number == signal.SIGTERM else (-9,))
    if status == 75:
        state = next(store.glob("runs/*/*/staging/state"))
        assert state.parent.stat().st_mode & 0o777 == 0o700, "nobody else may reach it until it is sealed"
        assert len(list(state.glob("unit-*.json"))) >= 2
        assert len(list(state.glob("boundary-*"))) <= 1
    # After SIGKILL the worker may still be at its layer: it loses its directory and can do no harm.
    done = quantpipe("run", recipe, "--store", store, "--until", "quantize")
    assert done.status == 0, done.stderr
    ours = receipt(store)
    assert ours["outputs"]["manifest"] == whole["outputs"]["manifest"]
    if status == 75:
        assert ours["figures"]["resumed_units"] >= 2


def test_the_quality_is_measured_and_changes_no_bit(
    recipe: Path, whole: dict[str, Any], _quantized: Path, tmp_path: Path
) -> None:
    quality = whole["outputs"]["quality"]
    assert 0 < quality["kl_mean"] < quality["kl_p99"]
    assert quality["top1"] > 0.8
    assert quality["perplexity_quantized"] == pytest.approx(quality["perplexity_bf16"], rel=0.05)
    assert len(quality["layers"]) == whole["figures"]["layers"]
    report = read_quality(_quantized / quality["file"])
    assert report.summary.kl_mean == quality["kl_mean"]
    assert len(report.prompts) == 2

    other = write_recipe(tmp_path / "other", quantize={"engine": "streaming"}, quality={"measure": False})
    done = quantpipe("run", other, "--store", tmp_path / "store", "--until", "quantize")
    assert done.status == 0, done.stderr
    unmeasured = receipt(tmp_path / "store")
    assert "quality" not in unmeasured["outputs"]
    assert unmeasured["outputs"]["manifest"] == whole["outputs"]["manifest"]
    assert unmeasured["key"] == whole["key"]


def test_a_gate_that_fails_ends_the_run_and_a_looser_one_continues_it(
    whole: dict[str, Any], quantized_store: Path, tmp_path: Path
) -> None:
    store = quantized_store
    gates = [{"dataset": "held_out.json", "max_kl": value} for value in (1e-9, 1.0)]
    strict, loose = (
        write_recipe(tmp_path / f"{number}", quantize={"engine": "streaming"}, quality=section)
        for number, section in enumerate(gates)
    )
    done = quantpipe("run", strict, "--store", store, "--until", "verify")
    assert done.status == 4, done.stderr
    assert "above max_kl 1e-09" in done.stderr
    assert "layer 0: SQNR" in done.stderr
    assert "model.layers." in done.stderr
    assert not list(store.glob("models/*/[0-9a-f]*"))
    done = quantpipe("run", loose, "--store", store, "--until", "quantize")
    assert done.status == 0, done.stderr
    assert "quantize  up to date" in done.stderr
    assert receipt(store)["started"] == whole["started"]


def test_force_starts_over(recipe: Path, whole: dict[str, Any], quantized_store: Path) -> None:
    """A receipt says that the work was finished once: what it left is not taken up."""
    store = quantized_store
    first = receipt(store)
    done = quantpipe("run", recipe, "--store", store, "--until", "quantize", "--force", "quantize")
    assert done.status == 0, done.stderr
    again = receipt(store)
    assert again["figures"]["resumed_units"] == 0
    assert again["started"] > first["started"]
    assert first["outputs"]["manifest"] == again["outputs"]["manifest"] == whole["outputs"]["manifest"]


def test_a_changed_recipe_is_named_and_not_mixed(recipe: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    if interrupt(recipe, store, signal.SIGTERM) != 75:
        pytest.skip("the run got to its end before the signal")
    other = write_recipe(tmp_path / "other", quantize={"engine": "streaming", "rotate": False})
    done = quantpipe("run", other, "--store", store, "--until", "quantize")
    assert done.status == 0, done.stderr
    assert "quantizing starts over" in done.stderr
    assert "spec:" in done.stderr
    assert receipt(store)["figures"]["resumed_units"] == 0
