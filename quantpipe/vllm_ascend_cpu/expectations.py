"""Which tensors a checkpoint holds for a layer of each type: the V0 and V1 layouts of msmodelslim.

V0 writes weight_scale and weight_offset of static layers too, and q/k/v `.bias` with anti-outlier
m4; nothing uses them (quant_bias contains the bias). Shapes are those of the whole layer, before
tensor or expert parallelism cuts it.
"""

from __future__ import annotations

from quantpipe.checkpoint.dims import Dims

from .description import DYNAMIC, EXPERT_PARTS, FLOAT, STATIC, Description
from .ledger import FLOATS, Expected, LoadLedger

DEQ_SCALE = "deq_scale of a bfloat16 model; I64 is the layout for float16: quantize from bfloat16"


def linear_tensors(
    type_: str, out_features: int, in_features: int, *, has_bias: bool = False
) -> dict[str, Expected]:
    """The tensors of one unfused linear layer, by the last part of their names."""
    why = f"{type_} in the description"
    weight = (out_features, in_features)
    channel = (out_features, 1)
    bias = {"bias": Expected((out_features,), FLOATS, why, required=type_ != STATIC)}
    if type_ == FLOAT:
        return {"weight": Expected(weight, FLOATS, why), **(bias if has_bias else {})}
    tensors = {
        "weight": Expected(weight, ("I8",), why),
        "weight_scale": Expected(channel, FLOATS, why, required=type_ == DYNAMIC),
        "weight_offset": Expected(channel, FLOATS, why, required=type_ == DYNAMIC),
    }
    if type_ == STATIC:
        tensors["input_scale"] = Expected((1,), FLOATS, why)
        tensors["input_offset"] = Expected((1,), FLOATS, why)
        tensors["quant_bias"] = Expected((out_features,), ("I32",), why)
        tensors["deq_scale"] = Expected((out_features,), ("F32",), DEQ_SCALE)
    return {**tensors, **(bias if has_bias or type_ == STATIC else {})}


def expect_linear(
    ledger: LoadLedger, layer: str, type_: str, out_in: tuple[int, int], *, has_bias: bool = False
) -> None:
    """Enter one unfused linear layer of the checkpoint, `out_in` its output and input size."""
    for field, expected in linear_tensors(type_, *out_in, has_bias=has_bias).items():
        ledger.expect(f"{layer}.{field}", expected)


def expect_experts(
    ledger: LoadLedger, prefix: str, type_: str, num_experts: int, hidden: int, intermediate: int
) -> None:
    """Enter all experts below `prefix` (`model.layers.0.mlp.experts`)."""
    for expert in range(num_experts):
        for part in EXPERT_PARTS:
            out_in = (hidden, intermediate) if part == "down_proj" else (intermediate, hidden)
            expect_linear(ledger, f"{prefix}.{expert}.{part}", type_, out_in)


def expect_embedding(ledger: LoadLedger, prefix: str, dims: Dims) -> None:
    """Enter the embedding, or lm_head where it is a matrix of its own."""
    if prefix.endswith("lm_head") and dims.tied:
        return
    why = "FLOAT in the description"
    ledger.expect(f"{prefix}.weight", Expected((dims.vocab, dims.hidden), FLOATS, why))


def expect_layer_norms(ledger: LoadLedger, layer: str, dims: Dims, description: Description) -> None:
    """Enter the norms of one decoder layer (`model.layers.0`); vLLM builds them without a name."""
    sizes = {
        "input_layernorm": dims.hidden,
        "post_attention_layernorm": dims.hidden,
        "self_attn.q_norm": dims.head_dim,
        "self_attn.k_norm": dims.head_dim,
    }
    for norm, size in sizes.items():
        expect_norm(ledger, f"{layer}.{norm}", size, description)


def expect_norm(ledger: LoadLedger, norm: str, size: int, description: Description) -> None:
    """Enter one RMSNorm: its weight, and its bias if the description lists one (V0 with m4)."""
    ledger.expect(f"{norm}.weight", Expected((size,), FLOATS, "every RMSNorm has a weight"))
    if f"{norm}.bias" in description.entries:
        ledger.expect(f"{norm}.bias", Expected((size,), FLOATS, "listed in the description"))
