"""Checks of names, dtypes and shapes against config.json and the description: A7 to A9, B1, B2, B8."""

from __future__ import annotations

from collections.abc import Iterator

from quantpipe.checkpoint.names import CONFIG
from quantpipe.checkpoint.tensors import FLOAT, OF_THE_WEIGHT, STATIC, STATIC_TYPES
from quantpipe.verify.checks.needs import FILES, MODEL
from quantpipe.verify.checks.registry import check
from quantpipe.verify.examination import Examination
from quantpipe.verify.finding import Defect, Severity
from quantpipe.verify.model import Model

_IGNORED = "rotary_emb.inv_freq"
_KV_CACHE = ("kv_cache_scale", "kv_cache_offset")


def _split(name: str) -> tuple[str, str]:
    """Module and suffix: the suffix is what follows the last dot."""
    module, _, suffix = name.rpartition(".")
    return module, suffix


_CONFIG_KEYS = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "vocab": "vocab_size",
    "intermediate": "intermediate_size",
    "moe_intermediate": "moe_intermediate_size",
    "experts": "num_experts",
}


@check(
    "A9",
    needs=FILES,
    effect="loading ends in a shape mismatch or a KeyError, or builds a model with random layers",
    fix="copy config.json from the source that was quantized; the model type must be qwen3_moe, qwen3 "
    "or qwen2",
)
def dimensions(examination: Examination) -> Iterator[Defect]:
    """Dimensions and the numbers of layers and experts are the same in config.json and in the tensors."""
    model = examination.model
    if model is None:
        yield Defect(CONFIG, "config.json cannot be used", examination.checkpoint.config_problem)
        return
    for key, size in model.seen.items():
        said = getattr(model.config_dims, key)
        text = f"config.json's {_CONFIG_KEYS[key]} does not match the tensors"
        yield Defect(CONFIG, text, f"{said:,} in config.json, {size:,} in the tensors")


@check(
    "A7",
    needs=MODEL,
    effect="loading ends in an assertion on the shape of a parameter",
    fix="quantize again with the msmodelslim version that the recipe pins",
)
def shapes(model: Model) -> Iterator[Defect]:
    """Every tensor has the rank and shape that its module requires."""
    for name, spec in model.expected.items():
        tensor = model.tensors.get(name)
        if tensor is None or spec.shape is None or tensor.shape == spec.shape:
            continue
        yield Defect(
            name, "a tensor has the wrong shape", f"{list(tensor.shape)} instead of {list(spec.shape)}"
        )


@check(
    "A8",
    needs=MODEL,
    effect="loading ends in KeyError with the tensor's name",
    fix="remove the tensor; a deq_scale or input_scale on an expert means that it was quantized by a "
    "static scheme",
)
def unknown_tensors(model: Model) -> Iterator[Defect]:
    """There is no tensor without a parameter."""
    cached = model.description.settings.get("kv_cache_type") == "C8"
    for name in model.tensors:
        module, suffix = _split(name)
        if suffix == "bias" or name.endswith(_IGNORED) or (cached and suffix in _KV_CACHE):
            continue
        if module not in model.modules:
            tied_head = model.dims.tied and module == "lm_head"
            if not tied_head:
                yield Defect(name, "no module of the model has a parameter for the tensor")
            continue
        specs = model.specs_of(module)
        if specs is not None and suffix not in specs and not _superfluous(model, module, suffix):
            yield Defect(name, f"a module of type {model.types[module]} has no parameter {suffix[:60]}")


def _superfluous(model: Model, module: str, suffix: str) -> bool:
    """V0's weight_scale and weight_offset of a static linear: loaded and not used."""
    return model.types[module] == STATIC and suffix in OF_THE_WEIGHT


@check(
    "B1",
    needs=MODEL,
    effect="vLLM does not check completeness: what is missing stays as it was allocated, and the output "
    "is garbage",
    fix="quantize again; when a shard was lost while copying, copy it again",
)
def exact_set(model: Model) -> Iterator[Defect]:
    """Exactly the tensors that the model needs exist, and each is described."""
    described = model.description.types
    for name in model.types:
        for suffix in OF_THE_WEIGHT:
            tensor = f"{name}.{suffix}"
            left = not model.static_scales and _superfluous(model, name, suffix)
            if left and tensor in model.tensors:
                yield Defect(tensor, "a tensor is left over from another layout", severity=Severity.WARNING)
    for name in model.tensors:
        if name not in described and _split(name)[1] not in ("weight", "bias"):
            yield Defect(name, "a tensor is not in the description", severity=Severity.WARNING)
    if all(header.parsed for header in model.checkpoint.headers):
        yield from _missing(model)
        yield from _described_only(model, described)


def _described_only(model: Model, described: dict[str, str]) -> Iterator[Defect]:
    """Keys without a tensor, except for those of modules that another check reports."""
    for name in described:
        if name in model.tensors or name in model.expected or name.endswith("norm.bias"):
            continue
        module = _split(name)[0]
        whole = module in model.types and f"{module}.weight" in model.tensors
        if whole or module not in model.modules:
            yield Defect(name, "the description names a missing tensor", severity=Severity.WARNING)


def _missing(model: Model) -> Iterator[Defect]:
    for name, spec in model.expected.items():
        if not spec.optional and name not in model.tensors:
            yield Defect(name, "a tensor is missing")


@check(
    "B2",
    needs=MODEL,
    effect="the loader casts silently: BF16 data under an int8 key become 0, an int64 deq_scale "
    "its bit pattern",
    fix="quantize again from a source whose torch_dtype is that of config.json",
)
def dtypes(model: Model) -> Iterator[Defect]:
    """Every tensor has the dtype that its type requires."""
    for name, spec in model.expected.items():
        tensor = model.tensors.get(name)
        if tensor is None or tensor.dtype in spec.dtypes:
            continue
        module, suffix = _split(name)
        kind = model.types[module]
        text = (
            f"the {suffix} of a {kind} module is {tensor.dtype} instead of {' or '.join(sorted(spec.dtypes))}"
        )
        wider = kind == FLOAT and tensor.dtype == "F32"
        yield Defect(name, text, severity=Severity.WARNING if wider else None)


@check(
    "B8",
    needs=MODEL,
    effect="a bias without a parameter is skipped silently; a parameter without its bias adds "
    "uninitialized memory",
    fix="name every norm.bias in the description, on all norms or none; keep linears with a folded bias "
    "W8A8 static",
)
def biases(model: Model) -> Iterator[Defect]:
    """Biases exist only where the server has a parameter for them."""
    biases = {name for name in model.tensors if name.endswith(".bias")}
    norms = [module.name for module in model.modules.values() if module.kind == "norm"]
    described = any("norm.bias" in key for key in model.description.types)
    present = [name for name in norms if f"{name}.bias" in biases]
    if not described:
        for name in present:
            yield Defect(
                f"{name}.bias", "a norm has a bias, but no key of the description contains norm.bias"
            )
    elif all(header.parsed for header in model.checkpoint.headers):
        yield from _norm_biases(model, norms, biases)
    yield from _linear_biases(model, biases)


def _norm_biases(model: Model, norms: list[str], biases: set[str]) -> Iterator[Defect]:
    """With one key that contains norm.bias every RMSNorm gets the parameter. Absent norms are B1's."""
    absent = [n for n in norms if f"{n}.bias" not in biases and f"{n}.weight" in model.tensors]
    for name in absent:
        yield Defect(f"{name}.bias", "the bias of a norm is missing, though the description has norm.bias")
    if not absent:
        text = "the norms have biases (m4 smoothing of V0): correct, as the description lists them"
        yield Defect("norm.bias", text, f"{len(norms)} norms", severity=Severity.NOTE)


def _linear_biases(model: Model, biases: set[str]) -> Iterator[Defect]:
    """The others: q/k/v of V0 keep a bias that quant_bias contains already, safe on static linears only."""
    for name in sorted(biases):
        module = model.modules.get(_split(name)[0])
        if module is None:
            yield Defect(name, "no module of the model has this bias")
        elif module.bias:
            continue  # one of the tensors that A7, B1 and B2 look at
        elif model.tensors[name].shape != (module.out,):
            shape = list(model.tensors[name].shape)
            yield Defect(name, "a bias has the wrong shape", f"{shape} instead of {[module.out]}")
        elif module.kind == "norm":
            continue
        elif (kind := model.types.get(module.name)) not in (None, *STATIC_TYPES):
            yield Defect(name, f"a linear of type {kind} has a bias without a parameter")
