"""A power cut at any durable call leaves a sound store, and the same command succeeds."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import pytest

from . import figures
from .conftest import LONG, POINTS
from .ground import Ground
from .hosts import HERE, SEPARATE, Host, namespaces
from .power import STAGES
from .stages import BY_NAME

pytestmark = [pytest.mark.quantize_env, *([pytest.mark.slow] if LONG else [])]


def test_the_power_is_cut(ground: Ground, host: Host, seed: int) -> None:
    if os.geteuid() != 0 or not namespaces():
        pytest.skip("a filesystem of its own needs root")
    stages = STAGES if LONG else random.Random(seed).sample(STAGES, 1)
    for name in stages:  # here, not on the small filesystem
        ground.calls(host, BY_NAME[name])
    ground.digests(host)
    asked = {
        "folder": str(ground.folder),
        "own": str(ground.own),
        "library": str(ground.library),
        "recipes": {letter: str(path) for letter, path in ground.recipes.items()},
        "stages": stages,
        "points": max(1, POINTS // 4) if POINTS else 0,
        "seed": seed,
    }
    done = subprocess.run(
        [*SEPARATE, sys.executable, "-m", "attack.power"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    if "skipped" in result:
        pytest.skip(f"no filesystem of its own: {result['skipped']}")
    assert result["problems"] == [], "\n\n".join(result["problems"])
    figures.add(power_cuts=result["cuts"])
