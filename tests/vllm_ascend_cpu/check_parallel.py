"""Two ranks: tensor parallel, and expert parallel on top of it.

Each rank rounds its part of a sum to bfloat16 before the ranks add, so the last bits differ from
one rank; what a wrong cut or a bias added twice does is shown by `check_the_tolerance_tells`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from check_load import TOKENS, assert_close_to_reference, engine, engine_logprobs
from checkpoints import LAYERS, build
from reference import ReferenceModel

TOLERANCE = 0.03


def compare(directory: Path, *, moe: bool, layout: str, expert_parallel: bool) -> None:
    build(moe=moe, layout=layout).write(directory)
    llm = engine(directory, tensor_parallel_size=2, enable_expert_parallel=expert_parallel)
    found = engine_logprobs(llm)
    llm.llm_engine.engine_core.shutdown()
    assert_close_to_reference(directory, found, tolerance=TOLERANCE, control=False)


def check_tensor_parallel_moe_v1(tmp: Path) -> None:
    compare(tmp / "tp2-moe-v1", moe=True, layout="V1", expert_parallel=False)


def check_expert_parallel_moe_v0(tmp: Path) -> None:
    compare(tmp / "ep2-moe-v0", moe=True, layout="V0", expert_parallel=True)


def check_tensor_parallel_dense_v0(tmp: Path) -> None:
    compare(tmp / "tp2-dense-v0", moe=False, layout="V0", expert_parallel=False)


def check_the_tolerance_tells(tmp: Path) -> None:
    """Twice the quant_bias of o_proj, as from a bias on both ranks, is far outside the tolerance."""
    model = build(moe=True, layout="V1")
    right = ReferenceModel(model.write(tmp / "right")).logprobs(TOKENS)
    for layer in range(LAYERS):
        model.tensors[f"model.layers.{layer}.self_attn.o_proj.quant_bias"] *= 2
    wrong = ReferenceModel(model.write(tmp / "wrong")).logprobs(TOKENS)
    assert (right - wrong).abs().mean().item() > 4 * TOLERANCE
    assert torch.isfinite(wrong).all()
