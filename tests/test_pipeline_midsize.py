"""A model of 825 MB, 4 layers of 64 experts, through the whole pipeline, killed on its way and not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from helpers.commands import QUANTPIPE, ROOT, environment, quantpipe, write_recipe

NAME = "midsize"
pytestmark = [pytest.mark.slow, pytest.mark.quantize_env, pytest.mark.serve_env]


def test_killed_while_quantizing_it_publishes_the_same(quantize_python: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    make = [str(quantize_python), str(ROOT / "benchmarks/bench_quantize.py"), "--make", str(model), "4"]
    subprocess.run(make, check=True, capture_output=True, timeout=300, env=environment())
    # Its weights are random, and so are its answers: no continuation to hold it to.
    probe = [{"prompt": "Paris is", "max_tokens": 4}]
    recipe = write_recipe(
        tmp_path, name=NAME, source={"repo": str(model)}, smoke={"probes": probe, "min_matches": 0.0}
    )
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    kill_behind_a_layer(recipe, killed)
    for store in (killed, whole):
        done = quantpipe("run", recipe, "--store", store, "--json")
        assert done.status == 0, done.stderr
        assert done.json()["status"] == "published"
        assert (resumed_units(done.stderr) >= 2) is (store == killed)
    digests = [(store / "models" / NAME / "current").readlink().name for store in (killed, whole)]
    assert digests[0] == digests[1]


def resumed_units(events: str) -> int:
    """How many units the quantize stage found finished."""
    lines = [json.loads(line) for line in events.splitlines() if line.startswith("{")]
    ended = [line for line in lines if (line.get("stage"), line.get("status")) == ("quantize", "finished")]
    return int(ended[0]["figures"]["resumed_units"])


def kill_behind_a_layer(recipe: Path, store: Path) -> None:
    """SIGKILL for quantpipe as soon as two units are finished."""
    command = [str(QUANTPIPE), "run", str(recipe), "--store", str(store)]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while not list(store.rglob("state/unit-00001.json")):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)
