"""A decoder layer's forward pass for all prompts at once, for `exact: false`.

Tokens of all prompts go through each linear in one product; only attention itself is prompt by prompt. Input
scales are still those that msmodelslim takes prompt by prompt (per tensor of one prompt and one expert; the
static ones from the prompts so far), so that only the order of sums differs from the exact mode.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from quantpipe.quantize.worker.streaming import moe
from quantpipe.quantize.worker.streaming.linear import CalibratedLinear, quantized, symmetric_scale
from quantpipe.quantize.worker.streaming.model import Inputs

ROWS = 32
"""An expert's rows in a product are a multiple of it."""


class Groups:
    """Rows of a matrix, grouped by the tensor that msmodelslim would see.

    Args:
        number: the group of each row, [rows].
        count: how many groups there are.
    """

    def __init__(self, number: torch.Tensor, count: int) -> None:
        self.number, self.count = number, count

    def ranges(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Smallest and largest value of each group, [groups]; of groups without rows, zeros."""
        low, high = x.amin(dim=-1).float(), x.amax(dim=-1).float()
        nothing = torch.zeros(self.count, device=x.device)
        lows = nothing.scatter_reduce(0, self.number, low, "amin", include_self=False)
        highs = nothing.scatter_reduce(0, self.number, high, "amax", include_self=False)
        return lows.to(x.dtype), highs.to(x.dtype)

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        """Quantized and dequantized with one symmetric scale per group."""
        scale = symmetric_scale(*self.ranges(x))[self.number].unsqueeze(-1)
        return quantized(x, scale).mul_(scale)


def _rounded(linears: Sequence[nn.Module], x: torch.Tensor, groups: Groups) -> torch.Tensor:
    """The input of linears that share it, rounded according to their config; unchanged if they are float."""
    first = linears[0]
    if not isinstance(first, CalibratedLinear):
        return x
    if not first.static:
        return groups.rounded(x)
    scales, offsets = [], []
    for low, high in zip(*groups.ranges(x), strict=True):  # a group per prompt, in order
        first.record(low, high)
        known = first.parameters_of_input
        assert known is not None
        scales.append(known.ext["scale"].reshape(()))
        offsets.append(known.ext["offset"].reshape(()))
    for linear in linears:
        linear.seen, linear.parameters_of_input = first.seen, first.parameters_of_input
    scale = torch.stack(scales)[groups.number].unsqueeze(-1)
    offset = torch.stack(offsets)[groups.number].unsqueeze(-1)
    return (x / scale).add_(offset).round_().clamp_(-128, 127).sub_(offset).mul_(scale)


def _product(linear: nn.Module, x: torch.Tensor) -> torch.Tensor:
    weight = linear.rounded if isinstance(linear, CalibratedLinear) else linear.weight
    return nn.functional.linear(x, weight, linear.bias)


def forward(layer: Any, inputs: Sequence[Inputs]) -> list[torch.Tensor]:
    """The layer's results for all prompts.

    Args:
        inputs: hidden states [1, tokens, hidden] and keyword arguments of each prompt.

    Returns:
        Hidden states of each prompt, [1, tokens, hidden].
    """
    lengths = [hidden.shape[1] for hidden, _ in inputs]
    hidden = torch.cat([states[0] for states, _ in inputs])
    numbers = torch.arange(len(lengths), device=hidden.device)
    prompts = Groups(numbers.repeat_interleave(torch.tensor(lengths, device=hidden.device)), len(lengths))
    keywords = [given for _, given in inputs]
    hidden = hidden + _attention(layer.self_attn, layer.input_layernorm(hidden), prompts, lengths, keywords)
    normed = layer.post_attention_layernorm(hidden)
    block = _experts if hasattr(layer.mlp, "experts") else _mlp
    hidden = hidden + block(layer.mlp, normed, prompts)
    return [part.unsqueeze(0) for part in hidden.split(lengths)]


def _attention(
    attention: Any, x: torch.Tensor, prompts: Groups, lengths: list[int], keywords: Sequence[dict[str, Any]]
) -> torch.Tensor:
    rotary = sys.modules[type(attention).__module__].apply_rotary_pos_emb
    attend = ALL_ATTENTION_FUNCTIONS[attention.config._attn_implementation]
    linears = [attention.q_proj, attention.k_proj, attention.v_proj]
    x = _rounded(linears, x, prompts)
    projected = [_product(linear, x).view(x.shape[0], -1, attention.head_dim) for linear in linears]
    query, key, value = projected
    if hasattr(attention, "q_norm"):
        query, key = attention.q_norm(query), attention.k_norm(key)
    results = []
    split = zip(query.split(lengths), key.split(lengths), value.split(lengths), keywords, strict=True)
    for q, k, v, given in split:
        heads = [part.transpose(0, 1).unsqueeze(0) for part in (q, k, v)]
        rotated = rotary(heads[0], heads[1], *given["position_embeddings"])
        result, _ = attend(
            attention,
            *rotated,
            heads[2],
            given.get("attention_mask"),
            dropout=0.0,
            scaling=attention.scaling,
            sliding_window=attention.sliding_window,
        )
        results.append(result.reshape(q.shape[0], -1))
    x = _rounded([attention.o_proj], torch.cat(results), prompts)
    return _product(attention.o_proj, x)


def _mlp(mlp: Any, x: torch.Tensor, groups: Groups) -> torch.Tensor:
    x = _rounded([mlp.gate_proj, mlp.up_proj], x, groups)
    middle = mlp.act_fn(_product(mlp.gate_proj, x)).mul_(_product(mlp.up_proj, x))
    return _product(mlp.down_proj, _rounded([mlp.down_proj], middle, groups))


def _experts(block: Any, x: torch.Tensor, prompts: Groups) -> torch.Tensor:
    """One product per expert and linear, over the tokens of all prompts."""
    _, weights, experts = moe.route(block, x)
    k, number = block.top_k, block.num_experts
    pair = (experts * prompts.count + prompts.number.unsqueeze(1)).reshape(-1)  # an expert and a prompt
    order = torch.argsort(pair, stable=True)
    rows, groups, weights = order // k, pair[order] % prompts.count, weights.reshape(-1)[order].unsqueeze(-1)
    counts = torch.bincount(experts.reshape(-1), minlength=number).tolist()
    moe.count_tokens(block, counts)
    total = torch.zeros_like(x)
    parts = zip(rows.split(counts), groups.split(counts), weights.split(counts), strict=True)
    for expert, (mine, group, weight) in zip(block.experts, parts, strict=True):
        count = mine.numel()
        if count:
            padded, group = _padded(mine), _padded(group)
            result = _mlp(expert, x.index_select(0, padded), Groups(group, prompts.count))[:count]
            total.index_copy_(0, mine, result.mul_(weight).add_(total.index_select(0, mine)))
    return total


def _padded(numbers: torch.Tensor) -> torch.Tensor:
    """Padded to a multiple of ROWS with copies of the first: they change no range and no other row.

    The library compiles a product for each new number of rows, and caches it.
    """
    missing = -numbers.numel() % ROWS
    return torch.cat([numbers, numbers[:1].expand(missing)]) if missing else numbers
