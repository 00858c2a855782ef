"""Which tensors a checkpoint holds for a layer of each type: the V0 and V1 layouts of msmodelslim.

V0 writes weight_scale and weight_offset of static layers too, and q/k/v `.bias` with anti-outlier
m4; nothing uses them (quant_bias contains the bias). Shapes are those of the whole layer, before
tensor or expert parallelism splits it.
"""

from __future__ import annotations

from quantpipe.checkpoint.dims import Dims
from quantpipe.checkpoint.modules import EXPERT_PARTS
from quantpipe.checkpoint.tensors import DYNAMIC, FLOAT, STATIC, tensor_specs

from .description import Description
from .ledger import FLOATS, Expected, LoadLedger

_DTYPE = "BF16"
"""Of the model: the only one that is rehearsed."""

DEQ_SCALE = "deq_scale of a bfloat16 model; I64 is the layout for float16: quantize from bfloat16"


def linear_tensors(
    type_: str, out_features: int, in_features: int, *, has_bias: bool = False
) -> dict[str, Expected]:
    """The tensors of one unfused linear layer, by the last part of their names.

    Floating-point weights may have any such dtype, since vLLM converts them.
    """
    specs = tensor_specs((out_features, in_features), type_, _DTYPE, static_scales=None)
    assert specs is not None and type_ in (FLOAT, STATIC, DYNAMIC)
    why = f"{type_} in the description"
    tensors = {
        suffix: Expected(
            spec.shape or (),
            FLOATS if type_ == FLOAT else tuple(sorted(spec.dtypes)),
            DEQ_SCALE if suffix == "deq_scale" else why,
            required=not spec.optional,
        )
        for suffix, spec in specs.items()
    }
    if has_bias or type_ == STATIC:
        tensors["bias"] = Expected((out_features,), FLOATS, why, required=type_ != STATIC)
    return tensors


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
    }
    if dims.head_norms:
        sizes |= {"self_attn.q_norm": dims.head_dim, "self_attn.k_norm": dims.head_dim}
    for norm, size in sizes.items():
        expect_norm(ledger, f"{layer}.{norm}", size, description)


def expect_norm(ledger: LoadLedger, norm: str, size: int, description: Description) -> None:
    """Enter one RMSNorm: its weight, and its bias if the description lists one (V0 with m4)."""
    ledger.expect(f"{norm}.weight", Expected((size,), FLOATS, "every RMSNorm has a weight"))
    if f"{norm}.bias" in description.entries:
        ledger.expect(f"{norm}.bias", Expected((size,), FLOATS, "listed in the description"))
