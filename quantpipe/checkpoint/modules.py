"""The modules that a checkpoint has to hold, derived from its dimensions, and the type of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from quantpipe.checkpoint.description import Description
from quantpipe.checkpoint.dims import Dims
from quantpipe.checkpoint.tensors import FLOAT, REAL, Spec, tensor_specs

KINDS = ("embed", "head", "router", "norm", "attention", "mlp", "expert")
"""What a module may be."""

FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""The linears that vLLM fuses, by the name of the fused one."""

EXPERT_PARTS = (*FUSED["gate_up_proj"], "down_proj")
"""The linears of an expert."""

_SPLIT_FOR_TP = 16
"""W4A8_DYNAMIC: scale_bias of row-parallel linears is summed in 16 parts, for a tp of 16 at most."""


@dataclass(frozen=True, slots=True)
class Module:
    """A module with a `.weight`.

    Attributes:
        kind: one of KINDS.
        out, inp: outputs and inputs; a norm has out only (inp 0).
        layer: number of its decoder layer; -1 outside of them.
        expert: number of the expert; -1 where it is none.
        group: the fused module of vLLM that it becomes a part of, by name.
        bias: whether it is a linear with a bias.
    """

    name: str
    kind: str
    out: int
    inp: int
    layer: int = -1
    expert: int = -1
    group: str = ""
    bias: bool = False

    @property
    def leaf(self) -> str:
        """The last part of the name: q_proj, down_proj, input_layernorm, ..."""
        return self.name.rpartition(".")[2]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight before quantizing."""
        return (self.out, self.inp) if self.inp else (self.out,)


def modules(dims: Dims) -> Iterator[Module]:
    """Every module with a weight, in the model's order. A tied lm_head is none of them."""
    yield Module("model.embed_tokens", "embed", dims.vocab, dims.hidden)
    for layer in range(dims.layers):
        yield from _attention(dims, layer)
        yield from _experts(dims, layer) if dims.sparse(layer) else _mlp(dims, layer)
    yield Module("model.norm", "norm", dims.hidden, 0)
    if not dims.tied:
        yield Module("lm_head", "head", dims.vocab, dims.hidden)


def _attention(dims: Dims, layer: int) -> Iterator[Module]:
    prefix = f"model.layers.{layer}"
    qkv = f"{prefix}.self_attn.qkv_proj"
    query, key = dims.heads * dims.head_dim, dims.kv_heads * dims.head_dim
    for name, out in zip(FUSED["qkv_proj"], (query, key, key), strict=True):
        linear = f"{prefix}.self_attn.{name}"
        bias = name in dims.biased
        yield Module(linear, "attention", out, dims.hidden, layer, group=qkv, bias=bias)
    bias = "o_proj" in dims.biased
    yield Module(f"{prefix}.self_attn.o_proj", "attention", dims.hidden, query, layer, bias=bias)
    for name in ("q_norm", "k_norm") if dims.head_norms else ():
        yield Module(f"{prefix}.self_attn.{name}", "norm", dims.head_dim, 0, layer)
    for name in ("input_layernorm", "post_attention_layernorm"):
        yield Module(f"{prefix}.{name}", "norm", dims.hidden, 0, layer)


def _mlp(dims: Dims, layer: int) -> Iterator[Module]:
    prefix = f"model.layers.{layer}.mlp"
    group = f"{prefix}.gate_up_proj"
    for name in FUSED["gate_up_proj"]:
        yield Module(f"{prefix}.{name}", "mlp", dims.intermediate, dims.hidden, layer, group=group)
    yield Module(f"{prefix}.down_proj", "mlp", dims.hidden, dims.intermediate, layer)


def _experts(dims: Dims, layer: int) -> Iterator[Module]:
    prefix = f"model.layers.{layer}.mlp"
    group = f"{prefix}.experts"
    yield Module(f"{prefix}.gate", "router", dims.experts, dims.hidden, layer)
    for number in range(dims.experts):
        name = f"{group}.{number}"
        width = dims.moe_intermediate
        yield Module(f"{name}.gate_proj", "expert", width, dims.hidden, layer, number, group)
        yield Module(f"{name}.up_proj", "expert", width, dims.hidden, layer, number, group)
        yield Module(f"{name}.down_proj", "expert", dims.hidden, width, layer, number, group)


def governing_type(module: Module, description: Description) -> str | None:
    """The type that vLLM uses for a module: expert 0 decides for all experts of a layer; norms are FLOAT."""
    if module.kind == "norm":
        return FLOAT
    if module.kind == "expert":
        return description.type_of(f"{module.group}.0.{module.leaf}")
    return description.type_of(module.name)


def specs(module: Module, kind: str, dtype: str, *, static_scales: bool) -> dict[str, Spec] | None:
    """The tensors of a module by suffix, as `tensor_specs`, and its bias; None for an unknown type."""
    parts = _SPLIT_FOR_TP if module.leaf in ("down_proj", "o_proj") else 1
    found = tensor_specs(module.shape, kind, dtype, static_scales=static_scales, parts=parts)
    if found is None or not module.bias:
        return found
    return {**found, "bias": Spec(REAL, (module.out,))}
