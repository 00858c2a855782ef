"""The memory of serving: how many bytes each device holds, and how much is left for the KV cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from quantpipe.checkpoint.dims import Dims
from quantpipe.checkpoint.layout import GIB, Layout
from quantpipe.checkpoint.modules import Module
from quantpipe.verify.model import Model

_VOCAB_PADDING = 64
_RUNTIME_BYTES = 2 * GIB
"""For the runtime, communication buffers and captured graphs: an assumption, shown in the report."""

_ROW_PARALLEL = ("o_proj", "down_proj")
_CUT_BY_ROWS = ("weight", "scale_bias")
"""What is cut of a row-parallel linear: what it has per output (quant_bias, deq_scale) stays whole."""


class MemoryFigures(TypedDict):
    """The memory of the fullest device.

    Attributes:
        budget_bytes: what the server may use.
        weight_bytes: after loading.
        reserve_bytes: assumed for the runtime and activations.
        kv_bytes_per_token: KV cache of one token.
        kv_tokens: tokens that the rest holds; negative where not even the weights fit.
        max_model_len: tokens of one sequence of full length.
        verdict: `fits`, `tight` (fewer than two sequences of full length) or `not`.
    """

    budget_bytes: int
    weight_bytes: int
    reserve_bytes: int
    kv_bytes_per_token: int
    kv_tokens: int
    max_model_len: int
    verdict: str


@dataclass(frozen=True)
class Memory:
    """Bytes of the fullest device.

    Attributes:
        weights: after loading.
        reserve: allowance for the runtime and activations.
        kv_per_token: KV cache of one token.
        kv_tokens: tokens that the rest holds; negative where not even the weights fit.
        verdict: `fits`, `tight` (fewer than two sequences of full length) or `not`.
    """

    budget: int
    weights: int
    reserve: int
    kv_per_token: int
    kv_tokens: int
    max_model_len: int
    verdict: str

    def to_json(self) -> MemoryFigures:
        """The figures as a JSON object."""
        return {
            "budget_bytes": self.budget,
            "weight_bytes": self.weights,
            "reserve_bytes": self.reserve,
            "kv_bytes_per_token": self.kv_per_token,
            "kv_tokens": self.kv_tokens,
            "max_model_len": self.max_model_len,
            "verdict": self.verdict,
        }


def estimate(model: Model, layout: Layout, device_memory: int) -> Memory:
    """The memory of the fullest device, of `device_memory` bytes, under `layout`."""
    dims = model.dims
    weights = max(rank_bytes(model, layout))
    per_token = 2 * dims.layers * max(1, dims.kv_heads // layout.tp) * dims.head_dim * 2
    activations = layout.max_num_batched_tokens * _activation_bytes(dims, layout)
    logits = 2 * 4 * layout.max_num_seqs * dims.vocab
    reserve = _RUNTIME_BYTES + activations + logits
    budget = int(device_memory * layout.utilization)
    tokens = (budget - weights - reserve) // per_token
    length = layout.max_model_len or dims.max_positions
    verdict = "not" if tokens < length else "tight" if tokens < 2 * length else "fits"
    return Memory(budget, weights, reserve, per_token, tokens, length, verdict)


def _activation_bytes(dims: Dims, layout: Layout) -> int:
    """Bytes per token in flight: residual stream, q/k/v, widest MLP, two bytes a number, kept twice."""
    query = dims.heads // max(1, min(layout.tp, dims.heads)) * dims.head_dim
    widest = max(dims.intermediate, 4 * dims.moe_intermediate)
    return 2 * 2 * (4 * dims.hidden + 3 * query + widest)


def rank_bytes(model: Model, layout: Layout) -> list[int]:
    """Bytes of the weights on each of the dp * tp devices."""
    dims = model.dims
    common, cut, whole = 0, 0, 0
    for name in model.types:
        module = model.modules[name]
        for suffix in model.specs_of(name) or {}:
            tensor = model.tensors.get(f"{name}.{suffix}")
            if tensor is None:
                continue
            stays = module.leaf in _ROW_PARALLEL and suffix not in _CUT_BY_ROWS
            if module.kind != "expert":
                common += tensor.size if stays else _share(dims, module, tensor.size, layout.tp)
            elif stays:
                whole += tensor.size
            else:
                cut += tensor.size
    if not dims.experts or not layout.ep:
        return [common + whole + _ceil(cut, layout.devices)] * layout.devices
    each = _ceil(cut + whole, dims.experts)
    placed = dims.experts + layout.redundant_experts
    return [common + each * _experts_on(rank, placed, layout.devices) for rank in range(layout.devices)]


def _experts_on(rank: int, experts: int, devices: int) -> int:
    """Contiguous placement: the first ranks hold one more where it does not divide."""
    return experts // devices + (rank < experts % devices)


def _share(dims: Dims, module: Module, size: int, tp: int) -> int:
    """The bytes of a tensor on one rank."""
    if module.kind in ("norm", "router"):
        return size
    if module.kind in ("embed", "head"):
        padded = _ceil(dims.vocab, _VOCAB_PADDING) * _VOCAB_PADDING
        return _ceil(size * padded // dims.vocab, tp)
    if module.leaf in ("k_proj", "v_proj"):
        return _ceil(size * max(1, dims.kv_heads // tp), dims.kv_heads)
    return _ceil(size, tp)


def _ceil(amount: int, parts: int) -> int:
    return -(-amount // parts)
