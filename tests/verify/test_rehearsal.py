"""Defects that the real vLLM engine loads silently: its answers change, and the checks find them before."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.environments import SERVE

from quantpipe.verify.verify import verify_checkpoint
from verify import edit
from verify.defects import last_norm_not_folded, one_norm_not_folded
from verify.fidelity.test_compare import EXPERTS, layer_of_another_run, swap_experts

pytestmark = [pytest.mark.slow, pytest.mark.quantize_env, pytest.mark.serve_env]
SCRIPT = Path(__file__).with_name("rehearse.py")
Plant = Callable[[Path], object]


def head_rotated_twice(path: Path) -> None:
    matrix = edit.read(path / "optional/quarot.safetensors")["global_rotation"].array
    edit.change(path, "lm_head.weight", lambda a: (a @ matrix).astype(np.float32))


def scale_of_a_busy_expert(path: Path) -> None:
    """Expert 0: the router of the random model sends the prompt there, and to expert 2 nothing at all."""
    edit.change(path, f"{EXPERTS}.0.down_proj.weight_scale", lambda a: a * 4)


SILENT: dict[str, tuple[Plant, str]] = {
    "two experts swapped": (lambda path: swap_experts(path, "v1-moe"), "B13"),
    "one expert's scale times four": (scale_of_a_busy_expert, "B13"),
    "attention of another layer": (lambda path: layer_of_another_run(path, "v1-moe"), "B13"),
    "head rotated twice": (head_rotated_twice, "B11"),
    "last norm not folded": (last_norm_not_folded, "B11"),
    "one norm not folded": (one_norm_not_folded, "B11"),
}


def rehearse(python: Path, report: Path, directories: list[Path]) -> dict[str, list[float] | str]:
    environment = {**os.environ, **SERVE.variables, "PYTHONPATH": ""}
    done = subprocess.run(
        [str(python), str(SCRIPT), str(report), *map(str, directories)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, list[float] | str] = json.loads(report.read_text())
    return found


def test_silent_defects_change_answers_and_are_found(
    made: Path, copy_of: Callable[[str], Path], serve_python: Path, tmp_path: Path
) -> None:
    copies = {}
    for name in ("valid", "valid again", *SILENT):
        copies[name] = copy_of("v1-moe").rename(tmp_path / name.replace(" ", "-").replace("'", ""))
    for name, (plant, check) in SILENT.items():
        plant(copies[name])
        report = verify_checkpoint(copies[name], deep=True, against=made / "bf16-moe")
        assert check in {finding.id for finding in report.errors}, name
    answers = rehearse(serve_python, tmp_path / "report.json", list(copies.values()))
    loaded = {name: answers[str(path)] for name, path in copies.items()}
    valid = np.array(loaded["valid"])
    assert np.array_equal(valid, loaded["valid again"])
    for name in SILENT:
        assert not isinstance(loaded[name], str), f"{name} did not load: {loaded[name]}"
        change = float(np.abs(np.array(loaded[name]) - valid).mean())
        assert change > 0.02, f"{name} changes the log-probabilities by {change} only"
