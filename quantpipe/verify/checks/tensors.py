"""Checks of names, dtypes and shapes against config.json and the description: A7 to A9, B1, B2, B8."""

from __future__ import annotations

from collections.abc import Iterator

from quantpipe.checkpoint.checkpoint import Checkpoint
from quantpipe.checkpoint.description import FLOAT
from quantpipe.checkpoint.names import CONFIG
from quantpipe.verify.checks.registry import check
from quantpipe.verify.finding import Problem, Severity

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
    effect="loading ends in a shape mismatch or a KeyError, or builds a model with random layers",
    fix="copy config.json from the source that was quantized; it has to be one of qwen3_moe or qwen3",
    needs="files",
)
def dimensions(checkpoint: Checkpoint) -> Iterator[Problem]:
    """Dimensions and the numbers of layers and experts are the same in config.json and in the tensors."""
    if checkpoint.config_dims is None:
        yield Problem(CONFIG, "config.json cannot be used", checkpoint.config_problem)
        return
    for key, size in checkpoint.seen.items():
        said = getattr(checkpoint.config_dims, key)
        text = f"config.json's {_CONFIG_KEYS[key]} is not what the tensors have"
        yield Problem(CONFIG, text, f"{said:,} there, {size:,} in the tensors")


@check(
    "A7",
    effect="loading ends in an assertion on the shape of a parameter",
    fix="quantize again with the msmodelslim version that the recipe pins",
)
def shapes(checkpoint: Checkpoint) -> Iterator[Problem]:
    """Every tensor has the rank and shape that its module asks for."""
    for name, spec in checkpoint.expected.items():
        tensor = checkpoint.tensors.get(name)
        if tensor is None or spec.shape is None or tensor.shape == spec.shape:
            continue
        yield Problem(
            name, "a tensor has the wrong shape", f"{list(tensor.shape)} instead of {list(spec.shape)}"
        )


@check(
    "A8",
    effect="loading ends in KeyError with the tensor's name",
    fix="remove the tensor; a deq_scale or input_scale on an expert means that it was quantized by a "
    "static scheme",
)
def unknown_tensors(checkpoint: Checkpoint) -> Iterator[Problem]:
    """There is no tensor that no parameter takes."""
    assert checkpoint.description is not None
    cached = checkpoint.description.settings.get("kv_cache_type") == "C8"
    for name in checkpoint.tensors:
        module, suffix = _split(name)
        if suffix == "bias" or name.endswith(_IGNORED) or (cached and suffix in _KV_CACHE):
            continue
        if module not in checkpoint.modules:
            tied_head = checkpoint.dims.tied and module == "lm_head"
            if not tied_head:
                yield Problem(name, "no module of the model takes the tensor")
            continue
        specs = checkpoint.specs_of(module)
        if specs is not None and suffix not in specs and not _superfluous(checkpoint, module, suffix):
            yield Problem(name, f"a module of type {checkpoint.types[module]} takes no {suffix[:60]}")


def _superfluous(checkpoint: Checkpoint, module: str, suffix: str) -> bool:
    """V0's weight_scale and weight_offset of a static linear: loaded and not used."""
    return checkpoint.types[module] == "W8A8" and suffix in ("weight_scale", "weight_offset")


@check(
    "B1",
    effect="vLLM does not check completeness: what is missing stays as it was allocated, and the answers "
    "are garbage",
    fix="quantize again; when a shard was lost while copying, copy it again",
)
def exact_set(checkpoint: Checkpoint) -> Iterator[Problem]:
    """Exactly the tensors that the model needs are there, and each is described."""
    assert checkpoint.description is not None
    described = checkpoint.description.types
    for name in checkpoint.types:
        for suffix in ("weight_scale", "weight_offset"):
            tensor = f"{name}.{suffix}"
            left = not checkpoint.static_scales and _superfluous(checkpoint, name, suffix)
            if left and tensor in checkpoint.tensors:
                yield Problem(tensor, "a tensor is left over from another layout", severity=Severity.WARNING)
    for name in checkpoint.tensors:
        if name not in described and _split(name)[1] not in ("weight", "bias"):
            yield Problem(name, "a tensor is not in the description", severity=Severity.WARNING)
    if all(header.parsed for header in checkpoint.headers):
        yield from _missing(checkpoint)
        yield from _described_only(checkpoint, described)


def _described_only(checkpoint: Checkpoint, described: dict[str, str]) -> Iterator[Problem]:
    """Keys without a tensor, apart from those of modules that another check complains about."""
    for name in described:
        if name in checkpoint.tensors or name in checkpoint.expected or name.endswith("norm.bias"):
            continue
        module = _split(name)[0]
        whole = module in checkpoint.types and f"{module}.weight" in checkpoint.tensors
        if whole or module not in checkpoint.modules:
            yield Problem(name, "the description names a tensor that is not there", severity=Severity.WARNING)


def _missing(checkpoint: Checkpoint) -> Iterator[Problem]:
    absent = [
        name
        for name, spec in checkpoint.expected.items()
        if not spec.optional and name not in checkpoint.tensors
    ]
    if checkpoint.dims.attention_bias:
        for module in checkpoint.modules.values():
            if module.kind == "attention" and f"{module.name}.bias" not in checkpoint.tensors:
                absent.append(f"{module.name}.bias")
    for name in absent:
        yield Problem(name, "a tensor is missing")


@check(
    "B2",
    effect="the loader casts without a word: BF16 data under an int8 key become 0, an int64 deq_scale "
    "its bit pattern",
    fix="quantize again from a source whose torch_dtype is that of config.json",
)
def dtypes(checkpoint: Checkpoint) -> Iterator[Problem]:
    """Every tensor has the dtype that its type asks for."""
    for name, spec in checkpoint.expected.items():
        tensor = checkpoint.tensors.get(name)
        if tensor is None or tensor.dtype in spec.dtypes:
            continue
        module, suffix = _split(name)
        kind = checkpoint.types[module]
        text = (
            f"the {suffix} of a {kind} module is {tensor.dtype} instead of {' or '.join(sorted(spec.dtypes))}"
        )
        wider = kind == FLOAT and tensor.dtype == "F32"
        yield Problem(name, text, severity=Severity.WARNING if wider else None)


@check(
    "B8",
    effect="a bias without a parameter is skipped without a word; one parameter without its bias adds "
    "what was in memory",
    fix="name every norm.bias in the description, on all norms or none; keep linears with a folded bias "
    "W8A8 static",
)
def biases(checkpoint: Checkpoint) -> Iterator[Problem]:
    """Biases are where the server has a parameter for them."""
    assert checkpoint.description is not None
    biases = {name for name in checkpoint.tensors if name.endswith(".bias")}
    norms = [module.name for module in checkpoint.modules.values() if module.kind == "norm"]
    described = any("norm.bias" in key for key in checkpoint.description.types)
    present = [name for name in norms if f"{name}.bias" in biases]
    if not described:
        for name in present:
            yield Problem(
                f"{name}.bias", "a norm has a bias, but no key of the description contains norm.bias"
            )
    elif all(header.parsed for header in checkpoint.headers):
        yield from _norm_biases(checkpoint, norms, biases)
    yield from _linear_biases(checkpoint, biases)


def _norm_biases(checkpoint: Checkpoint, norms: list[str], biases: set[str]) -> Iterator[Problem]:
    """With one key that contains norm.bias every RMSNorm gets the parameter. Absent norms are B1's."""
    absent = [n for n in norms if f"{n}.bias" not in biases and f"{n}.weight" in checkpoint.tensors]
    for name in absent:
        yield Problem(f"{name}.bias", "the bias of a norm is missing, though the description has norm.bias")
    if not absent:
        text = "the norms have biases (m4 smoothing of V0): fine, as the description says so"
        yield Problem("norm.bias", text, f"{len(norms)} norms", severity=Severity.NOTE)


def _linear_biases(checkpoint: Checkpoint, biases: set[str]) -> Iterator[Problem]:
    """q/k/v of V0 keep a bias that quant_bias contains already: safe on static linears only."""
    for name in sorted(biases):
        module = checkpoint.modules.get(_split(name)[0])
        if module is None:
            yield Problem(name, "a bias belongs to no module of the model")
        elif checkpoint.tensors[name].shape != (module.out,):
            shape = list(checkpoint.tensors[name].shape)
            yield Problem(name, "a bias has the wrong shape", f"{shape} instead of {[module.out]}")
        elif module.kind == "norm" or (module.kind == "attention" and checkpoint.dims.attention_bias):
            continue
        elif (kind := checkpoint.types.get(module.name)) not in (None, "W8A8", "W8A8_MIX"):
            yield Problem(name, f"a linear of type {kind} has a bias that no parameter takes")
