"""Spoiled checkpoints through vLLM's own loader: each must fail with the name of what is wrong."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from vllm.config import set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader import get_model

from .checkpoints import Checkpoint, build, build_qwen2, make_float

LAYER = "model.layers.1"
Q, K, OUT = (f"{LAYER}.self_attn.{part}_proj" for part in "qko")
EXPERT = f"{LAYER}.mlp.experts.3.down_proj"


# vLLM 0.32's loader empties the accelerator's cache, which its CPU worker turns off as here.
torch.accelerator.empty_cache = lambda: None

INITIALIZED: list[bool] = []


def load(directory: Path) -> torch.nn.Module:
    arguments = EngineArgs(
        model=str(directory),
        quantization="ascend",
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=64,
        skip_tokenizer_init=True,
    )
    config = arguments.create_engine_config()
    with set_current_vllm_config(config):
        if not INITIALIZED:
            init_distributed_environment(1, 0, f"file://{tempfile.mktemp()}", 0, "gloo")
            initialize_model_parallel(1, 1)
            INITIALIZED.append(True)
        return get_model(vllm_config=config)


def expect(
    tmp_path: Path,
    spoil: Callable[[Checkpoint], object],
    *patterns: str,
    layout: str = "V1",
    moe: bool = True,
) -> None:
    """Build, spoil, write and load: the error must match every pattern."""
    model = build(moe=moe, layout=layout)
    spoil(model)
    expect_error(model.write(tmp_path / "checkpoint"), *patterns)


def expect_error(directory: Path, *patterns: str) -> None:
    try:
        load(directory)
    except Exception as error:
        for pattern in patterns:
            assert re.search(pattern, str(error), re.DOTALL), f"no {pattern!r} in:\n{error}"
        return
    raise AssertionError("the load succeeded")


def without(name: str) -> Callable[[Checkpoint], None]:
    def spoil(model: Checkpoint) -> None:
        del model.tensors[name]

    return spoil


def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Checkpoint], None]:
    def spoil(model: Checkpoint) -> None:
        model.tensors[name] = change(model.tensors[name]).contiguous()

    return spoil


def first_set_to(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[0] = value
        return tensor

    return change


def test_good_checkpoints_load(tmp_path: Path) -> None:
    for moe in (True, False):
        for layout in ("V0", "V1"):
            load(build(moe=moe, layout=layout).write(tmp_path / f"{moe}-{layout}"))


def test_v1_with_norm_biases_loads(tmp_path: Path) -> None:
    load(build(moe=True, layout="V1", norm_biases=True).write(tmp_path))


def test_biases_of_qwen2(tmp_path: Path) -> None:
    static, dynamic = (f"model.layers.{layer}.self_attn.k_proj" for layer in (0, 1))
    spoils = {
        rf"{dynamic}\.bias: missing from all files": without(f"{dynamic}.bias"),
        "quant_bias: 64 of 256 values do not contain": changed(f"{static}.bias", lambda b: b + 1),
    }
    for number, (pattern, spoil) in enumerate(spoils.items()):
        model = build_qwen2()
        spoil(model)
        expect_error(model.write(tmp_path / str(number)), pattern)
    model = build_qwen2()
    for part in ("q_proj", "v_proj"):  # a static layer does without: quant_bias contains them
        without(f"model.layers.0.self_attn.{part}.bias")(model)
    without(f"{static}.bias")(model)
    load(model.write(tmp_path / "without"))


def test_one_missing_expert_tensor(tmp_path: Path) -> None:
    expect(tmp_path, without(f"{EXPERT}.weight_scale"), rf"{EXPERT}\.weight_scale: missing from all files")


def test_all_missing_are_named_at_once(tmp_path: Path) -> None:
    def spoil(model: Checkpoint) -> None:
        for name in (f"{EXPERT}.weight", f"{OUT}.quant_bias", f"{Q}.deq_scale", "model.norm.weight"):
            del model.tensors[name]

    names = (
        rf"{EXPERT}\.weight: missing",
        rf"{OUT}\.quant_bias: miss",
        rf"{Q}\.deq_scale: miss",
        r"model\.norm\.weight: m",
    )
    expect(tmp_path, spoil, "4 problems", "next: `quantpipe verify`", *names)


def test_missing_float_tensors(tmp_path: Path) -> None:
    names = (
        "lm_head",
        "model.embed_tokens",
        f"{LAYER}.mlp.gate",
        f"{LAYER}.self_attn.k_norm",
        f"{LAYER}.input_layernorm",
    )
    for number, name in enumerate(names):
        expect(tmp_path / str(number), without(f"{name}.weight"), rf"{re.escape(name)}\.weight: missing")


def test_a_missing_layer(tmp_path: Path) -> None:
    def spoil(model: Checkpoint) -> None:
        model.tensors = {name: t for name, t in model.tensors.items() if f"{LAYER}." not in name}

    expect(tmp_path, spoil, rf"{LAYER}\.", "and [0-9]+ more")


def test_duplicates_name_both_files(tmp_path: Path) -> None:
    def spoil(model: Checkpoint) -> None:
        model.extra_files["stale.safetensors"] = {f"{Q}.weight": model.tensors[f"{Q}.weight"].clone()}

    expect(tmp_path, spoil, rf"{Q}\.weight: duplicate, in quant_model_weights\S+ and in stale.safetensors")


def test_bf16_shards_left_beside(tmp_path: Path) -> None:
    def spoil(model: Checkpoint) -> None:
        model.extra_files["model.safetensors"] = {f"{Q}.weight": torch.zeros(128, 128, dtype=torch.bfloat16)}

    expect(tmp_path, spoil, rf"{Q}\.weight: duplicate, in model.safetensors and")


def test_shapes(tmp_path: Path) -> None:
    expect(
        tmp_path / "a",
        changed(f"{EXPERT}.weight", lambda t: t[:, :-1]),
        rf"{EXPERT}\.weight: shape \[128, 63\].*\[128, 64\]",
    )
    expect(
        tmp_path / "b",
        changed(f"{Q}.deq_scale", lambda t: t[:, None]),
        rf"{Q}\.deq_scale: shape \[128, 1\].*\[128\]",
    )
    expect(
        tmp_path / "c", changed("lm_head.weight", lambda t: t[:-1]), r"lm_head\.weight: shape \[255, 128\]"
    )


def test_unknown_tensors(tmp_path: Path) -> None:
    def put(name: str) -> Callable[[Checkpoint], None]:
        return lambda model: model.put(name, torch.zeros(8), "FLOAT")

    names = (
        f"{LAYER}.self_attn.q_proj.junk",
        "model.layers.2.input_layernorm.weight",
        f"{EXPERT}.deq_scale",
        f"{LAYER}.mlp.gate.bias",
        f"{LAYER}.self_attn.attn.k_scale",
        "top",
    )
    for number, name in enumerate(names):
        expect(
            tmp_path / str(number),
            put(name),
            rf"{re.escape(name)}: in quant_model_\S+, but the model has no parameter for it",
        )


def test_norm_bias_without_description_key(tmp_path: Path) -> None:
    name = f"{LAYER}.input_layernorm.bias"

    def spoil(model: Checkpoint) -> None:
        del model.description[name]

    expect(tmp_path, spoil, rf"{re.escape(name)}: in .*the model has no parameter for it", layout="V0")


def test_norm_bias_missing(tmp_path: Path) -> None:
    name = f"{LAYER}.self_attn.q_norm.bias"
    expect(tmp_path, without(name), rf"{re.escape(name)}: missing", layout="V0")


def test_bf16_data_under_an_int8_type(tmp_path: Path) -> None:
    for number, name in enumerate((f"{Q}.weight", f"{EXPERT}.weight")):
        spoil = changed(name, lambda tensor: tensor.to(torch.bfloat16))
        expect(
            tmp_path / str(number),
            spoil,
            rf"{re.escape(name)}: BF16 in .*expected I8 \(W8A8\w* in the description\)",
        )


def test_int8_data_under_float(tmp_path: Path) -> None:
    name = f"{LAYER}.mlp.gate.weight"
    expect(
        tmp_path, changed(name, lambda t: t.to(torch.int8)), rf"{name}: I8 in .*expected BF16 or F16 or F32"
    )


def test_int64_deq_scale(tmp_path: Path) -> None:
    spoil = changed(f"{Q}.deq_scale", lambda t: t.view(torch.int32).to(torch.int64))
    expect(tmp_path, spoil, rf"{Q}\.deq_scale: I64 .*layout for float16: quantize from bfloat16")


def test_scales(tmp_path: Path) -> None:
    cases = {
        f"{Q}.input_scale": "not finite|not positive",
        f"{OUT}.deq_scale": "1 of 128",
        f"{EXPERT}.weight_scale": "1 of 128",
    }
    for number, (name, pattern) in enumerate(cases.items()):
        for value in (float("nan"), float("inf"), 0.0, -1.0):
            spoil = changed(name, first_set_to(value))
            expect(
                tmp_path / f"{number}{value}",
                spoil,
                rf"{re.escape(name)}: .*({pattern})",
                "not (finite|positive)",
            )


def test_static_weight_scale_of_v0(tmp_path: Path) -> None:
    name = f"{OUT}.weight_scale"
    expect(
        tmp_path,
        changed(name, first_set_to(float("nan"))),
        rf"{name}: 1 of 128 values are not finite",
        layout="V0",
    )


def test_asymmetric_weights(tmp_path: Path) -> None:
    expect(
        tmp_path, changed(f"{EXPERT}.weight_offset", first_set_to(3)), rf"{EXPERT}\.weight_offset: not zero"
    )


def test_input_offset(tmp_path: Path) -> None:
    for number, value in enumerate((200.0, -129.0, 0.5, float("nan"))):
        spoil = changed(f"{OUT}.input_offset", first_set_to(value))
        expect(tmp_path / str(number), spoil, rf"{OUT}\.input_offset: \S+ is not an integer in \[-128, 127\]")


def test_parts_of_qkv_differ(tmp_path: Path) -> None:
    def scale(model: Checkpoint) -> None:
        model.tensors[f"{K}.input_scale"] *= 2
        model.tensors[f"{K}.deq_scale"] *= 2

    def offset(model: Checkpoint) -> None:
        model.tensors[f"{K}.input_offset"] += 1
        model.tensors[f"{K}.quant_bias"] -= model.tensors[f"{K}.weight"].sum(1).to(torch.int32)

    expect(
        tmp_path / "scale",
        scale,
        rf"parts of a fused layer differ: {Q}\.input_scale 0\.03.*{K}\.input_scale 0\.06",
    )
    expect(
        tmp_path / "offset",
        offset,
        rf"parts of a fused layer differ: {Q}\.input_offset -9.*{K}\.input_offset -8",
    )


def test_missing_bias_of_a_float_layer(tmp_path: Path) -> None:
    def spoil(model: Checkpoint) -> None:
        model.config["attention_bias"] = True
        for part in ("q_proj", "k_proj", "v_proj"):
            make_float(model, f"{LAYER}.self_attn.{part}")
        del model.tensors[f"{K}.bias"]

    expect(tmp_path, spoil, rf"1 problem.*{K}\.bias: missing from all files", layout="V0")


def test_deq_scale_identity(tmp_path: Path) -> None:
    spoil = changed(f"{Q}.deq_scale", lambda t: 4 * t)
    expect(
        tmp_path,
        spoil,
        rf"{Q}\.deq_scale: differs from input_scale \* weight_scale by up to 30\d %",
        layout="V0",
    )


def test_quant_bias_identity(tmp_path: Path) -> None:
    expect(
        tmp_path,
        changed(f"{OUT}.quant_bias", torch.zeros_like),
        rf"{OUT}\.quant_bias: \d+ of 128 values are not -input_offset",
    )


def test_description_defects(tmp_path: Path) -> None:
    def drop(name: str) -> Callable[[Checkpoint], object]:
        return lambda model: model.description.pop(name)

    def put(name: str, value: object) -> Callable[[Checkpoint], object]:
        return lambda model: model.description.update({name: value})

    cases: dict[str, tuple[Callable[[Checkpoint], object], str]] = {
        "o_proj": (drop(f"{OUT}.weight"), rf"{OUT}: 1 of 1 keys are missing.*{OUT}\.weight: no such key"),
        "k": (drop(f"{K}.weight"), rf"qkv_proj: 1 of 3 keys.*{K}\.weight: no such key"),
        "lm_head": (drop("lm_head.weight"), r"lm_head\.weight: no such key"),
        "expert 3": (drop(f"{EXPERT}.weight"), rf"{EXPERT}\.weight: no such key"),
        "float k": (put(f"{K}.weight", "FLOAT"), rf"different types.*{Q}\.weight: W8A8.*{K}\.weight: FLOAT"),
        "dynamic k": (put(f"{K}.weight", "W8A8_DYNAMIC"), r"different types"),
        "float expert": (put(f"{EXPERT}.weight", "FLOAT"), rf"different types.*{EXPERT}\.weight: FLOAT"),
        "w4a8": (put(f"{OUT}.weight", "W4A8_DYNAMIC"), r"type W4A8_DYNAMIC is not rehearsed.*recipe"),
        "lm_head type": (put("lm_head.weight", "W8A8"), r"lm_head: type W8A8 is not rehearsed"),
        "fa": (put("fa_quant_type", None), r"fa_quant_type.*delete the key"),
        "kv": (put("kv_cache_type", "C8"), r"kv_cache_type"),
    }
    for name, (spoil, pattern) in cases.items():
        expect(tmp_path / name, spoil, pattern, "quant_model_description.json")


def test_static_experts(tmp_path: Path) -> None:
    def spoil(model: Checkpoint) -> None:
        model.description |= {name: "W8A8" for name in model.description if ".experts." in name}

    expect(tmp_path, spoil, r"mlp\.experts: type W8A8 is not rehearsed here, only FLOAT, W8A8_DYNAMIC")


def test_no_description(tmp_path: Path) -> None:
    directory = build(moe=True, layout="V1").write(tmp_path)
    (directory / "quant_model_description.json").unlink()
    expect_error(directory, r"needs quant_model_description\.json", r"JSON files there: config\.json")
    (directory / "quant_model_description.json").write_text("{")
    expect_error(directory, "not JSON")
    (directory / "quant_model_description.json").write_text("[]")
    expect_error(directory, "not a JSON object")


def test_quantization_config(tmp_path: Path) -> None:
    def spoil(model: Checkpoint) -> None:
        model.config["quantization_config"] = {"quant_method": "ascend"}

    expect(tmp_path, spoil, "config.json has a quantization_config", "delete the key")


def test_other_architecture(tmp_path: Path) -> None:
    def spoil(model: Checkpoint) -> None:
        model.config |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}

    expect(tmp_path, spoil, "architecture LlamaForCausalLM is not rehearsed", moe=False)


def test_foreign_index(tmp_path: Path) -> None:
    directory = build(moe=True, layout="V1").write(tmp_path)
    weight_map = {"lm_head.weight": "quant_model_weights-00001-of-00002.safetensors"}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    expect_error(directory, "missing from all files")


def test_truncated_shard(tmp_path: Path) -> None:
    directory = build(moe=True, layout="V1").write(tmp_path)
    shard = directory / "quant_model_weights-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    expect_error(directory, "(?i)00002-of-00002|incomplete")


def test_tied_embeddings_with_lm_head(tmp_path: Path) -> None:
    def spoil(model: Checkpoint) -> None:
        model.config["tie_word_embeddings"] = True

    expect(tmp_path / "moe", spoil, r"lm_head\.weight: in .*the model has no parameter for it")
    expect(tmp_path / "dense", spoil, r"lm_head\.weight: in .*the model has no parameter for it", moe=False)
