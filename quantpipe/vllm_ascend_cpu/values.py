"""The conditions on the numbers of a checkpoint, for any layer.

Each function returns one sentence per problem of the tensor `name`; an empty list if it is correct.
The identities and their bounds are in quantpipe/checkpoint/tensors.py.
"""

from __future__ import annotations

import torch

from quantpipe.checkpoint.arithmetic import INT8_MAX, INT8_MIN
from quantpipe.checkpoint.tensors import ROUNDED


def scale_problems(name: str, scale: torch.Tensor) -> list[str]:
    """A scale is finite and positive."""
    scale = scale.float()
    bad = ~torch.isfinite(scale)
    if bad.any():
        return [f"{name}: {int(bad.sum())} of {scale.numel()} values are not finite"]
    bad = scale <= 0
    if bad.any():
        least = scale.min().item()
        return [f"{name}: {int(bad.sum())} of {scale.numel()} scales are not positive, smallest {least:.6g}"]
    return []


def weight_offset_problems(name: str, offset: torch.Tensor) -> list[str]:
    """Weights are symmetric: vllm-ascend's product ignores weight_offset, so it has to be zero."""
    if bool((offset == 0).all()):
        return []
    return [f"{name}: not zero: asymmetric weights are not supported by vllm-ascend"]


def input_offset_problems(name: str, offset: torch.Tensor) -> list[str]:
    """The offset is an int8 that is stored as a float; vllm-ascend casts it, and 200 becomes -56."""
    value = float(offset.float().item())
    if not value.is_integer() or not INT8_MIN <= value <= INT8_MAX:
        return [f"{name}: {value:.6g} is not an integer in [{INT8_MIN}, {INT8_MAX}]"]
    return []


def shared_value_problems(values: dict[str, torch.Tensor]) -> list[str]:
    """The parts of a fused layer see one activation: input_scale and input_offset are equal.

    vLLM keeps one value for all of them, the last one loaded.
    """
    if len({float(value.float().item()) for value in values.values()}) <= 1:
        return []
    listed = ", ".join(f"{name} {float(value.float().item()):.6g}" for name, value in values.items())
    return [f"the parts of a fused layer differ: {listed}"]


def deq_scale_problems(
    name: str, deq_scale: torch.Tensor, input_scale: torch.Tensor, weight_scale: torch.Tensor
) -> list[str]:
    """deq_scale [out] is input_scale [1] times weight_scale [out, 1], up to their bf16 rounding."""
    exact = input_scale.float() * weight_scale.float().flatten()
    error = ((deq_scale.float() - exact).abs() / exact).max().item()
    if error <= ROUNDED:
        return []
    return [f"{name}: differs from input_scale * weight_scale by up to {100 * error:.3g} %"]


def folded_bias_problems(
    name: str,
    quant_bias: torch.Tensor,
    bias: torch.Tensor,
    deq_scale: torch.Tensor,
    input_offset: torch.Tensor,
    weight_sum: torch.Tensor,
) -> list[str]:
    """quant_bias int32 [out] contains the linear's bias: `round(bias / deq_scale) - offset * rowsum(weight)`.

    One step is allowed, and what bf16 takes from the bias: vllm-ascend does not add `bias` itself.
    """
    given = bias.double() / deq_scale.double()
    exact = given - input_offset.double() * weight_sum.double()
    wrong = int(((quant_bias.double() - exact).abs() > 1 + ROUNDED * given.abs()).sum())
    if not wrong:
        return []
    return [f"{name}: {wrong} of {exact.numel()} values do not contain the linear's bias"]


def quant_bias_problems(
    name: str, quant_bias: torch.Tensor, input_offset: torch.Tensor, weight_sum: torch.Tensor
) -> list[str]:
    """Without a float bias, quant_bias int32 [out] only undoes the offset: -offset * rowsum(weight)."""
    exact = -input_offset.to(torch.int64) * weight_sum.to(torch.int64)
    wrong = int((quant_bias.to(torch.int64) != exact).sum())
    if not wrong:
        return []
    return [f"{name}: {wrong} of {exact.numel()} values are not -input_offset * rowsum(weight)"]
