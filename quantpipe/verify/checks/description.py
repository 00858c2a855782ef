"""Checks of quant_model_description.json and of config.json's own word on quantization: A1 to A5, B3, B10."""

from __future__ import annotations

from collections.abc import Iterator

from quantpipe.checkpoint.checkpoint import Checkpoint
from quantpipe.checkpoint.modules import Module
from quantpipe.checkpoint.names import CONFIG, DESCRIPTION
from quantpipe.checkpoint.support import supported_types
from quantpipe.verify.checks.needs import DIRECTORY, FILES, MODEL
from quantpipe.verify.checks.registry import check
from quantpipe.verify.examination import Examination
from quantpipe.verify.finding import Defect, Severity
from quantpipe.verify.model import Model, looked_up

_QUANTIZE_AGAIN = "quantize again, and do not edit the description by hand"


@check(
    "A1",
    needs=DIRECTORY,
    effect="vllm-ascend stops with 'ModelSlim Quantization Config Not Found', or loads a model that is "
    "not quantized",
    fix="pass the directory that msmodelslim wrote, with quant_model_description.json in its root; "
    "BF16 weights have to be quantized first (quantpipe run RECIPE)",
)
def description_is_there(examination: Examination) -> Iterator[Defect]:
    """The description exists, is JSON and quantizes something."""
    checkpoint = examination.checkpoint
    description = checkpoint.description
    if description is None:
        if not checkpoint.headers:
            yield Defect(str(checkpoint.path), "not a checkpoint: no *.safetensors and no description")
        elif not any(tensor.dtype == "I8" for tensor in checkpoint.tensors.values()):
            yield Defect(DESCRIPTION, "not quantized: no description and no int8 tensor")
        else:
            missing = DESCRIPTION not in checkpoint.names
            text = "the description is missing" if missing else "the description cannot be used"
            detail = _other_name(checkpoint) if missing else f"it {checkpoint.description_problem}"
            yield Defect(DESCRIPTION, text, detail)
        return
    if not description.quantized:
        yield Defect(DESCRIPTION, "not quantized: FLOAT is the only type in the description")
    for key in description.strange:
        yield Defect(key, "the description maps a tensor to something other than a type")


def _other_name(checkpoint: Checkpoint) -> str:
    others = [n for n in checkpoint.names if n.startswith("quant_model_description") and n != DESCRIPTION]
    return f"found under another name: {others[0]}" if others else ""


@check(
    "A2",
    needs=FILES,
    effect="the description is ignored and loading ends in KeyError 'model.layers.0.self_attn.q_proj.weight'",
    fix="remove quantization_config from config.json; --quantization ascend needs none",
)
def no_quantization_config(examination: Examination) -> Iterator[Defect]:
    """There is no quantization_config in config.json."""
    config = examination.checkpoint.config or {}
    inner = config.get("text_config")
    if "quantization_config" in config:
        yield Defect(CONFIG, "config.json has a quantization_config")
    if isinstance(inner, dict) and "quantization_config" in inner:
        yield Defect(CONFIG, "config.json has a quantization_config in its text_config")
    layout = examination.layout
    if layout is not None and layout.fused_mc2 and config.get("quantize") != "w8a8_dynamic":
        yield Defect(
            CONFIG,
            "enable_fused_mc2 has no effect: config.json does not have quantize: w8a8_dynamic",
            severity=Severity.WARNING,
        )


@check(
    "A3",
    needs=MODEL,
    effect="loading ends in KeyError 'NAME.weight', or, for lm_head and the embedding on 0.23.0, goes "
    "on unquantized",
    fix=_QUANTIZE_AGAIN,
)
def looked_up_keys(model: Model) -> Iterator[Defect]:
    """Every key that vllm-ascend looks up is in the description."""
    for module in model.modules.values():
        if looked_up(module) and model.description.type_of(module.name) is None:
            yield Defect(f"{module.name}.weight", "a key that vllm-ascend looks up is not in the description")


@check(
    "A4",
    needs=MODEL,
    effect="loading ends in ValueError 'Detected some but not all shards of ... are quantized' "
    "or 'Not all shards of ... are quantized with same quant type'",
    fix="quantize q, k and v (gate and up, all of an expert) by one scheme: fix the include and exclude "
    "lists",
)
def fused_types(model: Model) -> Iterator[Defect]:
    """The parts of a fused module have one type."""
    for group, types in model.group_types.items():
        if group in model.disputed:
            found = ", ".join(f"{name.rpartition('.')[2]} {kind}" for name, kind in types.items())
            yield Defect(group, "the parts of a fused module differ in type", found)


@check(
    "A5",
    needs=MODEL,
    effect='loading ends in NotImplementedError "doesn\'t support quant_type=... for layer_type=..."',
    fix="quantize experts W8A8_DYNAMIC and attention W8A8, or choose a vllm-ascend that has the type",
)
def supported(model: Model) -> Iterator[Defect]:
    """The target vllm-ascend serves each type for its kind of layer."""
    for module in model.modules.values():
        if not looked_up(module) or module.group in model.disputed:
            continue
        kind = model.description.type_of(module.name)
        if kind is not None and kind not in supported_types(model.target, module.kind):
            text = f"vllm-ascend {model.target} has no {kind[:40]} for {_layer_word(module)}"
            yield Defect(module.name, text)


def _layer_word(module: Module) -> str:
    return {"expert": "fused experts", "embed": "embeddings"}.get(module.kind, "linear layers")


@check(
    "B3",
    needs=MODEL,
    effect="vllm-ascend looks only at expert 0, loads without an error and produces garbage",
    fix="quantize all experts of a layer by one scheme",
)
def experts_alike(model: Model) -> Iterator[Defect]:
    """All experts of a layer are described as expert 0 is."""
    for module in model.modules.values():
        if module.expert < 1:
            continue
        own = model.description.type_of(module.name)
        first = model.description.type_of(f"{module.group}.0.{module.leaf}")
        if first is None or own == first:
            continue
        name = f"{module.name}.weight"
        if own is None:
            yield Defect(name, "an expert is not in the description, though expert 0 is")
        else:
            yield Defect(name, f"an expert is {own[:40]} while expert 0 is {first[:40]}")


@check(
    "B10",
    needs=MODEL,
    effect="vllm-ascend tests whether a key is present, not its value: fa_quant_type: null turns FA "
    "quantization on",
    fix="remove the null keys from quant_model_description.json",
    severity=Severity.NOTE,
)
def null_keys(model: Model) -> Iterator[Defect]:
    """The description has no null keys and no unintended feature flags."""
    for key in model.description.nulls:
        yield Defect(key, "the description has a key whose value is null")
    for key in ("fa_quant_type", "kv_cache_type"):
        value = model.description.settings.get(key)
        if value is not None:
            yield Defect(key, f"the description switches {key} on", str(value)[:40])
