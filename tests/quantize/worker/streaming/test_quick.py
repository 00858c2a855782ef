"""`exact: false`: what may differ from the exact mode, and by how much."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quantpipe.checkpoint.checkpoint import open_checkpoint
from quantpipe.quantize.worker.streaming.quick import QuickSearch
from quantpipe.quantize.worker.streaming.smooth import Search
from quantpipe.verify.fidelity.compare import compare
from quantpipe.verify.model import described_model

from ..engines import DENSE, MOE, OTHER, SHORT, Quantizer, spec

LONG = [" ".join(str(number * factor) for number in range(150)) for factor in (1, 7, 13)]


def values(folder: Path) -> dict[str, tuple[str, Any]]:
    """The type and the values of every tensor."""
    found = {}
    for file in folder.glob("*.safetensors"):
        data = file.read_bytes()
        length = int.from_bytes(data[:8], "little")
        for name, entry in json.loads(data[8 : 8 + length]).items():
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            kinds = {"I8": np.int8, "F32": np.float32, "I32": np.int32, "BF16": np.uint16}
            found[name] = entry["dtype"], np.frombuffer(data[begin:end], kinds[entry["dtype"]])
    return found


@pytest.mark.parametrize("rotate", [True, False])
@pytest.mark.parametrize("model", [MOE, DENSE], ids=["moe", "dense"])
def test_it_keeps_within_its_bounds(
    quantizer: Quantizer, tmp_path: Path, model: dict[str, Any], rotate: bool
) -> None:
    """One int8 weight in a thousand differs at most, by one; scales by less than 2^-8; errors do not grow."""
    snapshot = quantizer.make(tmp_path / "model", **{**model, "hidden_size": 256, "num_hidden_layers": 3})
    for name, exact in (("exact", True), ("quick", False)):
        done = quantizer.run(
            snapshot, tmp_path / name, exact=exact, prompts=[*SHORT, *LONG], process=spec(rotate=rotate)
        )
        assert done["status"] == 0, done["events"]
    exact_values, quick = (values(tmp_path / name / "checkpoint") for name in ("exact", "quick"))
    assert {k: v[0] for k, v in exact_values.items()} == {k: v[0] for k, v in quick.items()}
    weights = differing = 0
    for name, (kind, wanted) in exact_values.items():
        if kind == "I8":
            difference = np.abs(wanted.astype(int) - quick[name][1].astype(int))
            weights, differing = weights + difference.size, differing + int((difference > 0).sum())
            assert difference.max() <= 1, name
        elif name.endswith("scale"):
            assert np.abs(quick[name][1] / wanted - 1).max() <= 2**-8, name
    assert differing <= weights / 1000
    of_exact, of_quick = (error(tmp_path / name / "checkpoint", snapshot) for name in ("exact", "quick"))
    assert 0 < of_quick <= of_exact * 1.001


def error(checkpoint: Path, snapshot: Path) -> float:
    """The mean relative error of all modules against the BF16 model."""
    model = described_model(open_checkpoint(checkpoint), "0.23.0")
    assert model is not None
    found = compare(model, snapshot, jobs=1)
    return sum(item.error for item in found.errors) / len(found.errors)


def test_two_datasets_and_a_resumed_run(quantizer: Quantizer, tmp_path: Path) -> None:
    snapshot = quantizer.make(tmp_path / "model", **MOE)
    options: dict[str, Any] = {"exact": False, "smoothing": OTHER}
    assert quantizer.run(snapshot, tmp_path / "whole", **options)["status"] == 0
    how: dict[str, Any] = {"signal": "SIGTERM", "after_event": '"index": 1'}
    assert quantizer.run(snapshot, tmp_path / "parts", **options, **how)["status"] in (0, 75)
    assert quantizer.run(snapshot, tmp_path / "parts", **options)["status"] == 0
    for name, (kind, wanted) in values(tmp_path / "whole" / "checkpoint").items():
        found = values(tmp_path / "parts" / "checkpoint")[name]
        assert found[0] == kind
        assert np.array_equal(found[1], wanted), name


def test_search() -> None:
    """The same pair as the whole search finds, with a fraction of the products over all tokens."""

    full = 0

    class Counted(QuickSearch):
        def mean_square(self, alpha: Any, beta: Any) -> torch.Tensor:
            nonlocal full
            full += 1
            return super().mean_square(alpha, beta)

    found = set()
    rounds = 12
    for seed in range(rounds):
        torch.manual_seed(seed)
        channels = torch.exp(torch.randn(64) * (0.2 + 0.2 * seed))
        act = (torch.randn(3000, 64) * channels * torch.exp(torch.randn(3000, 1) * 0.3)).bfloat16()
        weights = (torch.randn(96, 64) * torch.exp(torch.randn(64) * 0.5)).bfloat16()
        wanted = Search(act, weights).best()
        assert tuple(map(float, Counted(act, weights).best())) == tuple(map(float, wanted)), seed
        found.add(wanted)
    assert len(found) > 3, found  # not one and the same answer to all
    assert full < 42 * rounds / 2, full
