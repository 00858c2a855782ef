"""benchmarks/study/study.py: the statistics of its table."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.commands import ROOT

SCRIPT = ROOT / "benchmarks" / "study" / "study.py"


@pytest.fixture(scope="module")
def study() -> SimpleNamespace:
    """What the script defines."""
    before = list(sys.path)
    found = runpy.run_path(str(SCRIPT))
    sys.path[:] = before
    return SimpleNamespace(**found)


def rows(*kls: float) -> list[dict[str, float]]:
    """Prompts of 10 tokens with this KL per token."""
    return [{"tokens": 10, "kl": 10 * kl, "top1": 9, "nll_bf16": 18.0, "nll": 18.9} for kl in kls]


def test_means_are_per_token_and_the_interval_holds_them(study: SimpleNamespace) -> None:
    found = study.summary(rows(0.01, 0.02, 0.03, 0.04))
    assert (found["tokens"], found["kl"], found["top1"]) == (40, 0.025, 0.9)
    assert found["perplexity_bf16"] == 7.389  # e ** (18 / 9)
    assert found["perplexity_ratio"] == 1.1052  # e ** 0.1
    low, high = found["kl_95"]
    assert 0.01 <= low < 0.02 < 0.03 < high <= 0.04
    assert study.summary(rows(0.02, 0.02))["kl_95"] == [0.02, 0.02]


def test_the_difference_to_the_best_is_paired(study: SimpleNamespace) -> None:
    """Prompts differ more than cells: what is always the same amount worse has no interval."""
    best = rows(0.01, 0.05, 0.3)
    assert study.difference(rows(0.02, 0.06, 0.31), best) == "+0.0100 (+0.0100 to +0.0100)"


def test_names_of_cells_differ(study: SimpleNamespace) -> None:
    names = [cell.name for cell in study.CELLS]
    assert len(set(names)) == len(names) == 13
    assert "rotated-flex-dynamic" in names


def test_relative_paths_are_those_of_the_caller(
    study: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make study` gives relative ones, and the worker runs in another folder."""
    given: list[Any] = []

    def run(cell: Any, options: Any) -> dict[str, Any]:
        given.append((options.model, options.out))
        return {"cpu_seconds": 0}

    for name, replaced in (("run", run), ("table", str)):
        monkeypatch.setitem(study.main.__globals__, name, replaced)
    monkeypatch.setattr(sys, "argv", ["study.py", "model", "out", "--only", study.CELLS[0].name])
    monkeypatch.chdir(tmp_path)
    study.main()
    assert given == [(tmp_path / "model", tmp_path / "out")]
