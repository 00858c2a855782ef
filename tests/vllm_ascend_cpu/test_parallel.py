"""Two ranks: tensor parallel, and expert parallel on top of it.

Each rank rounds its part of a sum to bfloat16 before the ranks add, so the last bits differ from
one rank; what a wrong cut or a bias added twice does is shown by `test_the_tolerance_tells`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from .checkpoints import LAYERS, build
from .engines import TOKENS, assert_close_to_reference, engine, engine_logprobs
from .reference import ReferenceModel

pytestmark = pytest.mark.slow

TOLERANCE = 0.03


def compare(directory: Path, *, moe: bool, layout: str, expert_parallel: bool) -> None:
    build(moe=moe, layout=layout).write(directory)
    llm = engine(directory, tensor_parallel_size=2, enable_expert_parallel=expert_parallel)
    found = engine_logprobs(llm)
    llm.llm_engine.engine_core.shutdown()
    assert_close_to_reference(directory, found, tolerance=TOLERANCE, control=False)


def test_tensor_parallel_moe_v1(tmp_path: Path) -> None:
    compare(tmp_path / "tp2-moe-v1", moe=True, layout="V1", expert_parallel=False)


def test_expert_parallel_moe_v0(tmp_path: Path) -> None:
    compare(tmp_path / "ep2-moe-v0", moe=True, layout="V0", expert_parallel=True)


def test_tensor_parallel_dense_v0(tmp_path: Path) -> None:
    compare(tmp_path / "tp2-dense-v0", moe=False, layout="V0", expert_parallel=False)


def test_the_tolerance_tells(tmp_path: Path) -> None:
    """Twice the quant_bias of o_proj, as from a bias on both ranks, is far outside the tolerance."""
    model = build(moe=True, layout="V1")
    right = ReferenceModel(model.write(tmp_path / "right")).logprobs(TOKENS)
    for layer in range(LAYERS):
        model.tensors[f"model.layers.{layer}.self_attn.o_proj.quant_bias"] *= 2
    wrong = ReferenceModel(model.write(tmp_path / "wrong")).logprobs(TOKENS)
    assert (right - wrong).abs().mean().item() > 4 * TOLERANCE
    assert torch.isfinite(wrong).all()
