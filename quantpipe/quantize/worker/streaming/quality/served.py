"""A decoder layer as the server computes it: made of the tensors that are written, in int8.

The formulas are those of checkpoint/arithmetic.py, the order of roundings that of vllm-ascend: a linear's
output is rounded to the model's type, but gate and up of an expert are joined in float32.
"""

from __future__ import annotations

import types
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from quantpipe.checkpoint.arithmetic import (
    INT8_MAX,
    INT8_MIN,
    dynamic_linear,
    quantize_per_token,
    static_levels,
    static_linear,
    to_int8,
)
from quantpipe.checkpoint.tensors import DYNAMIC, FLOAT, STATIC
from quantpipe.quantize.worker.streaming import model as models
from quantpipe.quantize.worker.streaming import moe
from quantpipe.quantize.worker.streaming.quality.watch import Watch

T = TypeVar("T")

Linear = tuple[torch.Tensor, torch.Tensor | None]
"""Weight and bias of a float linear."""


class Shared:
    """The last input that was quantized, for linears that get the same tensor object (q, k, v; gate, up)."""

    def __init__(self) -> None:
        self._given: torch.Tensor | None = None
        self._key: object = None
        self._result: Any = None

    def of(self, x: torch.Tensor, key: object, quantize: Callable[[], T]) -> T:
        """What `quantize` makes of `x`, kept for the next linear that has the same `key`: of the scales."""
        if self._given is not x or self._key != key:
            self._result = quantize()
            self._given, self._key = x, key
        result: T = self._result
        return result


class ServedLinear(nn.Module):  # type: ignore[misc]
    """A quantized linear.

    Args:
        tensors: by suffix, as they are written.
        dtype: of the model.
        shared: the same object for all linears of a layer.
        watch: takes the figures; None where nobody wants them.
    """

    def __init__(
        self, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype, shared: Shared, watch: Watch | None
    ) -> None:
        super().__init__()
        self.integers, self.shared, self.watch = tensors["weight"], shared, watch
        self.weight_scale = self.take(tensors, dtype)

    def take(self, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """Keep what the product needs; returns the weight's scales, float32 [out]."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The output in the type of `x`, [..., out]."""
        rows = x.reshape(-1, x.shape[-1])
        result = self.product(x, rows)
        self.seen(rows, result)
        return result.to(x.dtype).view(*x.shape[:-1], -1)

    def product(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """float32 [tokens, out] of `rows` [tokens, in], which are those of `x`."""
        raise NotImplementedError

    def seen(self, x: torch.Tensor, result: torch.Tensor) -> None:
        """Report a call to the watch."""
        if self.watch is not None:
            self.watch.see(x, result, self.integers, self.weight_scale)


class ServedStatic(ServedLinear):
    """W8A8: scale and offset of the input from calibration."""

    def take(self, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """See ServedLinear. What the server rounds to the model's type or to int8 is rounded here."""
        self.quant_bias, deq_scale = tensors["quant_bias"], tensors["deq_scale"]
        # Of a float16 model the bits of a float32 lie in an int64.
        bits = deq_scale.dtype == torch.int64
        self.deq_scale = deq_scale.to(torch.int32).view(torch.float32) if bits else deq_scale.float()
        self.reciprocal = 1 / tensors["input_scale"].to(dtype)
        self.offset = tensors["input_offset"].to(torch.int8).to(dtype)
        scale: torch.Tensor = self.deq_scale / tensors["input_scale"].float()
        return scale

    def product(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """See ServedLinear."""
        key = float(self.reciprocal), float(self.offset)
        q, clipped = self.shared.of(x, key, lambda: self._quantized(rows))
        if self.watch is not None:
            self.watch.clip(rows.numel(), clipped)
        return static_linear(q, self.integers, self.quant_bias, self.deq_scale)

    def _quantized(self, rows: torch.Tensor) -> tuple[torch.Tensor, int]:
        """int8 [tokens, in], and how many of the values were clipped."""
        levels = static_levels(rows, self.reciprocal, self.offset)
        clipped = int(((levels < INT8_MIN) | (levels > INT8_MAX)).sum())
        return to_int8(levels), clipped


class ServedDynamic(ServedLinear):
    """W8A8_DYNAMIC: a scale for each token."""

    def take(self, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """See ServedLinear. The server keeps the scale in the model's type."""
        bias = tensors.get("bias")
        self.bias = None if bias is None else bias.float()
        return tensors["weight_scale"].to(dtype).float().flatten()

    def product(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """See ServedLinear."""
        q, scale = self.shared.of(x, "token", lambda: quantize_per_token(rows))
        result = dynamic_linear(q, scale, self.integers, self.weight_scale)
        return result if self.bias is None else result.add_(self.bias)


_KINDS: dict[str, type[ServedLinear]] = {STATIC: ServedStatic, DYNAMIC: ServedDynamic}


def served_layer(
    model: Any,
    index: int,
    tensors: Mapping[str, torch.Tensor],
    description: Mapping[str, str],
    originals: Mapping[str, Linear],
) -> tuple[nn.Module, list[Watch]]:
    """Decoder layer `index`, and the watches of its quantized linears.

    Args:
        tensors: of the layer, by their full names, as they are written.
        description: their entries of quant_model_description.json.
        originals: the float linears, by the names of their modules.

    Raises:
        SnapshotError: a tensor is missing, unknown, or of another shape.
        KeyError: a linear has a type whose arithmetic is not known here.
    """
    prefix = f"{models.layer_name(index)}."
    layer = models.empty_layer(model, index)
    parts: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        module, _, suffix = name.removeprefix(prefix).rpartition(".")
        parts[module][suffix] = tensor
    shared, watches = Shared(), []
    for name in list(parts):
        kind = description.get(f"{prefix}{name}.weight", FLOAT)
        if kind == FLOAT:
            continue
        watch = Watch(prefix + name, kind, *originals[prefix + name])
        parent, _, leaf = name.rpartition(".")
        served = _KINDS[kind](parts.pop(name), model.dtype, shared, watch)
        layer.get_submodule(parent)._modules[leaf] = served
        watches.append(watch)
    floats = {f"{name}.{suffix}": part for name, own in parts.items() for suffix, part in own.items()}
    models.fill(layer, floats, models.layer_name(index), model.dtype)
    if type(layer.mlp).__name__ == moe.KIND and isinstance(layer.mlp.experts[0].gate_proj, ServedDynamic):
        layer.mlp.forward = types.MethodType(_experts, layer.mlp)
    return layer, watches


def _experts(block: Any, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The block's forward pass: tokens are quantized once, the sum over experts is in float32."""
    hidden = hidden_states.view(-1, hidden_states.shape[-1])
    logits, weights, experts = moe.route(block, hidden)
    q, scale = quantize_per_token(hidden)
    chosen = experts.reshape(-1)
    order = torch.argsort(chosen, stable=True)
    counts = torch.bincount(chosen, minlength=block.num_experts).tolist()
    weights = weights.reshape(-1)[order].float().unsqueeze(-1)
    total = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
    parts = zip(block.experts, (order // block.top_k).split(counts), weights.split(counts), strict=True)
    for expert, rows, weight in parts:
        result = _expert(expert, hidden[rows], q[rows], scale[rows]).to(hidden.dtype)
        total.index_add_(0, rows, result.float().mul_(weight))
    return total.to(hidden.dtype).view(hidden_states.shape), logits


def _expert(expert: Any, x: torch.Tensor, q: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """float32 [tokens, hidden] of the tokens x, which are q times their scales."""
    gate, up, down = expert.gate_proj, expert.up_proj, expert.down_proj
    halves = [dynamic_linear(q, scale, part.integers, part.weight_scale) for part in (gate, up)]
    for part, half in zip((gate, up), halves, strict=True):
        part.seen(x, half)
    middle = expert.act_fn(halves[0]) * halves[1]
    q, scale = quantize_per_token(middle)
    result = dynamic_linear(q, scale, down.integers, down.weight_scale)
    down.seen(middle, result)
    return result
