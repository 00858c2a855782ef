"""The modules and tensors that a checkpoint has to hold, derived from its dimensions and its description.

The tensors of each type are those that msmodelslim 26.1.0 writes (V1's `ascendv1` saver, V0's Calibrator)
and that vllm-ascend's schemes create parameters for. o is the number of outputs, i that of inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from quantpipe.checkpoint.description import FLOAT, Description
from quantpipe.checkpoint.dims import Dims

KINDS = ("embed", "head", "router", "norm", "attention", "mlp", "expert")
"""What a module may be."""

_REAL = frozenset({"F32", "BF16", "F16"})
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
    """

    name: str
    kind: str
    out: int
    inp: int
    layer: int = -1
    expert: int = -1
    group: str = ""

    @property
    def leaf(self) -> str:
        """The last part of the name: q_proj, down_proj, input_layernorm, ..."""
        return self.name.rpartition(".")[2]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight before quantizing."""
        return (self.out, self.inp) if self.inp else (self.out,)


@dataclass(frozen=True, slots=True)
class Spec:
    """What a tensor has to be.

    Attributes:
        dtypes: the dtypes that load correctly.
        shape: None where any will do.
        optional: whether it may be absent.
    """

    dtypes: frozenset[str]
    shape: tuple[int, ...] | None
    optional: bool = False


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
    for name, out in (("q_proj", query), ("k_proj", key), ("v_proj", key)):
        yield Module(f"{prefix}.self_attn.{name}", "attention", out, dims.hidden, layer, group=qkv)
    yield Module(f"{prefix}.self_attn.o_proj", "attention", dims.hidden, query, layer)
    for name in ("q_norm", "k_norm"):
        yield Module(f"{prefix}.self_attn.{name}", "norm", dims.head_dim, 0, layer)
    for name in ("input_layernorm", "post_attention_layernorm"):
        yield Module(f"{prefix}.{name}", "norm", dims.hidden, 0, layer)


def _mlp(dims: Dims, layer: int) -> Iterator[Module]:
    prefix = f"model.layers.{layer}.mlp"
    group = f"{prefix}.gate_up_proj"
    for name in ("gate_proj", "up_proj"):
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
    """The tensors of a module by suffix (`weight`, `deq_scale`, ...); None where the type is not known.

    Args:
        kind: the type, as in the description.
        dtype: of the model, `BF16` or `F16`.
        static_scales: whether static linears keep their weight_scale and weight_offset, as in V0.
    """
    parts = _SPLIT_FOR_TP if module.leaf in ("down_proj", "o_proj") else 1
    return _specs(module.shape, kind, dtype, static_scales, parts)


@lru_cache(maxsize=1024)
def _specs(
    shape: tuple[int, ...], kind: str, dtype: str, static_scales: bool, parts: int
) -> dict[str, Spec] | None:
    """As `specs`, of a weight's shape before quantizing: a model has thousands of modules and few shapes."""
    if kind == FLOAT:
        return {"weight": Spec(frozenset({dtype}), shape)}
    out = shape[0]
    weight = Spec(frozenset({"I8"}), shape)
    column = Spec(_REAL, (out, 1))
    scales = {"weight_scale": column, "weight_offset": column}
    if kind in ("W8A8", "W8A8_MIX"):
        static = {"weight": weight, **_static(out, dtype)}
        return {**static, **scales} if kind == "W8A8_MIX" or static_scales else static
    if kind == "W8A8_DYNAMIC":
        return {"weight": weight, **scales}
    if kind == "W8A16":
        by_group = Spec(_REAL, None)
        return {"weight": weight, "weight_scale": by_group, "weight_offset": by_group}
    if kind == "W4A8_DYNAMIC":
        return _w4a8(shape, scales, parts)
    return None


def _static(out: int, dtype: str) -> dict[str, Spec]:
    one = Spec(_REAL, (1,))
    deq = "F32" if dtype == "BF16" else "I64"
    return {
        "input_scale": one,
        "input_offset": Spec(_REAL | {"I8"}, (1,)),
        "quant_bias": Spec(frozenset({"I32"}), (out,)),
        "deq_scale": Spec(frozenset({deq}), (out,)),
    }


def _w4a8(shape: tuple[int, ...], scales: dict[str, Spec], parts: int) -> dict[str, Spec]:
    """Two 4-bit weights of neighbouring outputs share a byte (description version 1.0.0)."""
    second = Spec(_REAL, None, optional=True)
    return {
        "weight": Spec(frozenset({"I8"}), (shape[0] // 2, *shape[1:])),
        **scales,
        "scale_bias": Spec(frozenset({"F32"}), (shape[0], parts)),
        "weight_scale_second": second,
        "weight_offset_second": second,
    }
