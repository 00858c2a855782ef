"""Dense Qwen2: biases of q, k and v through rotation and quantization, in numbers."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from ..engines import QWEN2, SHORT, Quantizer, spec

STUDY = Path(__file__).resolve().parents[4] / "benchmarks" / "study" / "plain.py"
TOKENS = torch.randint(3, 768, (64,), generator=torch.Generator().manual_seed(5)).tolist()
PROMPTS = [*SHORT, "Four boats left the harbour at 5.30; by noon 17 of 31 sailors had seen the other coast."]


def plain(folder: Path) -> Any:
    """The study's own evaluation of a model directory."""
    return runpy.run_path(str(STUDY))["Plain"](folder)


def off(found: Any, source: Any) -> float:
    """The relative distance of the logits."""
    a, b = found.logits(TOKENS), source.logits(TOKENS)
    return float((a - b).norm() / b.norm())


def dynamic(process: dict[str, Any]) -> dict[str, Any]:
    """The same spec with activations of attention per token."""
    group = process["process"][-1]["configs"][0]["qconfig"]
    group["act"] = {**group["act"], "scope": "per_token", "symmetric": True}
    return process


def outputs(model: Any, layer: int, part: str, x: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = model.linear(f"model.layers.{layer}.self_attn.{part}_proj", x)
    return result


@pytest.mark.parametrize("rotate", [True, False], ids=["rotated", "plain"])
@pytest.mark.parametrize("static", [True, False], ids=["static", "dynamic"])
def test_biases_survive(quantizer: Quantizer, tmp_path: Path, rotate: bool, static: bool) -> None:
    snapshot = quantizer.make(tmp_path / "model", **QWEN2)
    process = spec(rotate=rotate, method="none")
    process = process if static else dynamic(process)
    assert quantizer.run(snapshot, tmp_path / "out", process=process, prompts=PROMPTS)["status"] == 0
    source, model = plain(snapshot), plain(tmp_path / "out" / "checkpoint")
    name = "model.layers.0.self_attn"
    assert model.types[f"{name}.v_proj.weight"] == ("W8A8" if static else "W8A8_DYNAMIC")
    error = off(model, source)
    assert 0.001 < error < 0.12, error
    for part in "qkv":
        bias = model.tensors[f"{name}.{part}_proj.bias"]
        rotated = rotate and part == "v"  # the only one on a rotated side: the heads'
        original = source.tensors[f"{name}.{part}_proj.bias"]
        assert torch.equal(bias, original) != rotated
        assert torch.isclose(bias.norm(), original.norm(), rtol=0.01)
        # An input of zeros leaves the bias, to one step of quant_bias and the rounding to BF16.
        given = outputs(model, 0, part, torch.zeros(1, 64))[0]
        step = model.tensors[f"{name}.{part}_proj.deq_scale"] if static else torch.zeros(1)
        assert ((given - bias).abs() <= step + 2**-7 * bias.abs()).all()
    # The same model with its own biases, where the heads are rotated, or without them, is far off.
    for layer in range(2):
        weights = model.tensors, source.tensors, f"model.layers.{layer}.self_attn.v_proj"
        _replace_bias(*weights, keep=rotate)
    assert off(model, source) > 3 * error


def _replace_bias(
    tensors: dict[str, torch.Tensor], original: dict[str, torch.Tensor], name: str, *, keep: bool
) -> None:
    """Give a quantized linear the source's own bias, or none, as if it had been forgotten."""
    bias = original[f"{name}.bias"] if keep else torch.zeros_like(original[f"{name}.bias"])
    if f"{name}.quant_bias" in tensors:
        difference = (bias - tensors[f"{name}.bias"]) / tensors[f"{name}.deq_scale"]
        tensors[f"{name}.quant_bias"] += difference.round()
    tensors[f"{name}.bias"] = bias


def test_rotation_alone_changes_no_answer(quantizer: Quantizer, tmp_path: Path) -> None:
    snapshot = quantizer.make(tmp_path / "model", **{**QWEN2, "tie_word_embeddings": True})
    process = {**spec(), "process": [{"type": "quarot"}]}
    assert quantizer.run(snapshot, tmp_path / "out", process=process)["status"] == 0
    source, model = plain(snapshot), plain(tmp_path / "out" / "checkpoint")
    assert not model.config["tie_word_embeddings"]
    assert 0 < off(model, source) < 0.02  # BF16 rounds every rotated weight
    model.tensors["model.layers.1.self_attn.v_proj.bias"].mul_(-1)
    assert off(model, source) > 0.04
