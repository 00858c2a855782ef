"""Every defect of the loader's tables, as a function that plants it in a valid checkpoint.

Each is registered with the id that has to be found and the kinds of checkpoint it is planted in.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from verify import edit
from verify.edit import change, config, description, remove, remove_everywhere, stored, tensors

MOE = ("v1-moe", "v0-moe", "v1-moe-smooth")
V1 = ("v1-moe", "v1-dense")
QWEN2 = ("v1-qwen2",)
ALL = ("v1-moe", "v1-dense", "v0-moe")
ATTENTION = "model.layers.1.self_attn"
EXPERTS = "model.layers.1.mlp.experts"

Plant = Callable[[Path], object]


@dataclass(frozen=True)
class Defect:
    """A defect: the check that has to find it, its level, and how to plant it."""

    name: str
    check: str
    level: str
    kinds: tuple[str, ...]
    plant: Plant
    values: bool


DEFECTS: list[Defect] = []


def defect(
    check: str, kinds: tuple[str, ...] = ALL, *, level: str = "error", values: bool = False
) -> Callable[[Plant], Plant]:
    """Register a planting function; `values` says that only a deep look can find it."""

    def register(plant: Plant) -> Plant:
        DEFECTS.append(Defect(plant.__name__, check, level, kinds, plant, values))
        return plant

    return register


# -- A: raises at load ------------------------------------------------------------------------------


@defect("A1")
def description_missing(path: Path) -> None:
    (path / "quant_model_description.json").unlink()


@defect("A1")
def description_under_another_name(path: Path) -> None:
    file = path / "quant_model_description.json"
    file.rename(path / "quant_model_description_w8a8_dynamic.json")


@defect("A1")
def description_is_no_json(path: Path) -> None:
    (path / "quant_model_description.json").write_text('{"model.norm.weight": "FLOAT",')


@defect("A1")
def description_is_all_float(path: Path) -> None:
    with description(path) as keys:
        for key in [key for key in keys if "." in key]:
            keys[key] = "FLOAT"


@defect("A2")
def quantization_config_in_config(path: Path) -> None:
    with config(path) as value:
        value["quantization_config"] = {"quant_method": "ascend"}


@defect("A2")
def quantization_config_in_text_config(path: Path) -> None:
    with config(path) as value:
        value["text_config"] = {"quantization_config": {}}


def _drop_key(path: Path, key: str) -> None:
    with description(path) as keys:
        del keys[key]


@defect("A3")
def key_of_o_proj_missing(path: Path) -> None:
    _drop_key(path, f"{ATTENTION}.o_proj.weight")


@defect("A3")
def key_of_k_proj_missing(path: Path) -> None:
    _drop_key(path, f"{ATTENTION}.k_proj.weight")


@defect("A3", MOE)
def key_of_router_missing(path: Path) -> None:
    _drop_key(path, "model.layers.1.mlp.gate.weight")


@defect("A3", MOE)
def key_of_first_expert_missing(path: Path) -> None:
    _drop_key(path, f"{EXPERTS}.0.up_proj.weight")


@defect("A3")
def key_of_lm_head_missing(path: Path) -> None:
    _drop_key(path, "lm_head.weight")


@defect("A3")
def key_of_embedding_missing(path: Path) -> None:
    _drop_key(path, "model.embed_tokens.weight")


def _retype(path: Path, module: str, kind: str) -> None:
    with description(path) as keys:
        for key in keys:
            if key.startswith(f"{module}."):
                keys[key] = kind


@defect("A4")
def k_float_beside_quantized_q(path: Path) -> None:
    _retype(path, f"{ATTENTION}.k_proj", "FLOAT")


@defect("A4")
def k_dynamic_beside_static_q(path: Path) -> None:
    _retype(path, f"{ATTENTION}.k_proj", "W8A8_DYNAMIC")


@defect("A4", ("v1-dense",))
def gate_float_beside_quantized_up(path: Path) -> None:
    _retype(path, "model.layers.0.mlp.gate_proj", "FLOAT")


@defect("A4", MOE)
def first_expert_mixed(path: Path) -> None:
    for expert in range(4):
        _retype(path, f"{EXPERTS}.{expert}.up_proj", "FLOAT")


@defect("A5", MOE)
def experts_static(path: Path) -> None:
    with description(path) as keys:
        for key in keys:
            if ".experts." in key:
                keys[key] = "W8A8"


@defect("A5")
def attention_of_unknown_type(path: Path) -> None:
    _retype(path, f"{ATTENTION}.o_proj", "W4A4_DYNAMIC")


@defect("A6")
def stale_bf16_index(path: Path) -> None:
    value = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(value))


@defect("A6")
def index_leads_out_of_the_directory(path: Path) -> None:
    value = {"weight_map": {"model.norm.weight": "../../etc/passwd"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(value))


@defect("A6")
def vllm_index_is_no_index(path: Path) -> None:
    (path / "model.safetensors.index.json").write_text("[]")


@defect("A7")
def weight_of_wrong_shape(path: Path) -> None:
    change(path, f"{ATTENTION}.o_proj.weight", lambda a: a[:, :-2])


@defect("A7")
def deq_scale_of_wrong_rank(path: Path) -> None:
    change(path, f"{ATTENTION}.q_proj.deq_scale", lambda a: a.reshape(-1, 1))


@defect("A7", QWEN2)
def bias_of_wrong_shape(path: Path) -> None:
    change(path, f"{ATTENTION}.q_proj.bias", lambda a: a.reshape(-1, 1))


@defect("A7", MOE)
def weight_scale_flat(path: Path) -> None:
    change(path, f"{EXPERTS}.2.up_proj.weight_scale", lambda a: a.reshape(-1))


@defect("A8")
def unknown_top_level_tensor(path: Path) -> None:
    with tensors(path) as content, description(path) as keys:
        content["model.visual.proj.weight"] = stored(np.ones((4, 4), np.float32), "BF16")
        keys["model.visual.proj.weight"] = "FLOAT"


@defect("A8", MOE)
def expert_with_deq_scale(path: Path) -> None:
    with tensors(path) as content, description(path) as keys:
        content[f"{EXPERTS}.1.up_proj.deq_scale"] = stored(np.ones(32, np.float32), "F32")
        keys[f"{EXPERTS}.1.up_proj.deq_scale"] = "W8A8_DYNAMIC"


@defect("A9")
def config_of_another_width(path: Path) -> None:
    with config(path) as value:
        value["hidden_size"] = 128


@defect("A9")
def config_with_more_layers(path: Path) -> None:
    with config(path) as value:
        value["num_hidden_layers"] = 3


@defect("A9")
def config_with_fewer_layers(path: Path) -> None:
    with config(path) as value:
        value["num_hidden_layers"] = 1


@defect("A9", MOE)
def config_with_more_experts(path: Path) -> None:
    with config(path) as value:
        value["num_experts"] = 8


@defect("A9", MOE)
def config_of_transformers_5(path: Path) -> None:
    with config(path) as value:
        value["num_local_experts"] = value.pop("num_experts")


@defect("A9")
def config_missing(path: Path) -> None:
    (path / "config.json").unlink()


@defect("A9")
def config_of_absurd_size(path: Path) -> None:
    with config(path) as value:
        value["num_hidden_layers"] = 10**9


@defect("A9")
def config_of_another_vocabulary(path: Path) -> None:
    with config(path) as value:
        value["vocab_size"] = 400


@defect("A11")
def tokenizer_missing(path: Path) -> None:
    (path / "tokenizer.json").unlink()


@defect("A11")
def tokenizer_config_missing(path: Path) -> None:
    (path / "tokenizer_config.json").unlink()


@defect("A11", level="warning")
def chat_template_missing(path: Path) -> None:
    (path / "chat_template.jinja").unlink(missing_ok=True)
    with edit.json_file(path / "tokenizer_config.json") as value:
        value.pop("chat_template", None)


@defect("A11", level="note")
def unreadable_for_others(path: Path) -> None:
    edit.shard_of(path).chmod(0o400)


@defect("A12")
def shard_truncated(path: Path) -> None:
    shard = edit.shard_of(path)
    shard.write_bytes(shard.read_bytes()[:-100])


@defect("A12")
def shard_truncated_in_its_header(path: Path) -> None:
    shard = edit.shard_of(path)
    shard.write_bytes(shard.read_bytes()[:1000])


@defect("A12")
def shard_empty(path: Path) -> None:
    edit.shard_of(path).write_bytes(b"")


@defect("A12")
def tensors_overlap(path: Path) -> None:
    shard = edit.shard_of(path)
    data = shard.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    names = [name for name in header if name.endswith("_layernorm.weight")]
    header[names[0]]["data_offsets"] = header[names[1]]["data_offsets"]
    edit.write_raw(shard, json.dumps(header).encode(), data[8 + length :])


@defect("A12")
def half_written_shard_left(path: Path) -> None:
    edit.write(path / "quant_model_weights-00002-of-00000.safetensors", {})


@defect("A12")
def rank_folder_left(path: Path) -> None:
    (path / "rank_0").mkdir()


# -- B: loads and is wrong ---------------------------------------------------------------------------


@defect("B1")
def deq_scale_missing(path: Path) -> None:
    remove(path, f"{ATTENTION}.q_proj.deq_scale")


@defect("B1")
def quant_bias_missing(path: Path) -> None:
    remove(path, f"{ATTENTION}.o_proj.quant_bias")


@defect("B1", QWEN2)
def bias_missing(path: Path) -> None:
    remove(path, f"{ATTENTION}.v_proj.bias")


@defect("B1", MOE)
def expert_weight_scale_missing(path: Path) -> None:
    remove(path, f"{EXPERTS}.3.down_proj.weight_scale")


@defect("B1", MOE)
def expert_missing_in_all_layers(path: Path) -> None:
    with tensors(path) as content:
        for name in [name for name in content if ".experts.2." in name]:
            del content[name]


@defect("B1")
def whole_layer_missing(path: Path) -> None:
    with tensors(path) as content:
        for name in [name for name in content if name.startswith("model.layers.1.")]:
            del content[name]


@defect("B1")
def lm_head_missing(path: Path) -> None:
    remove(path, "lm_head.weight")


@defect("B1")
def norm_missing(path: Path) -> None:
    remove(path, "model.layers.0.self_attn.q_norm.weight")


@defect("B1", MOE)
def norm_missing_with_its_key(path: Path) -> None:
    remove_everywhere(path, "model.layers.0.post_attention_layernorm")


@defect("B1", ("v0-moe",))
def one_static_weight_scale_missing(path: Path) -> None:
    remove(path, f"{ATTENTION}.q_proj.weight_scale")


@defect("B1", level="warning")
def key_without_tensor(path: Path) -> None:
    with description(path) as keys:
        keys["model.layers.0.self_attn.extra.weight"] = "FLOAT"


@defect("B1", level="warning")
def tensor_without_key(path: Path) -> None:
    _drop_key(path, f"{ATTENTION}.q_proj.deq_scale")


@defect("B2")
def bf16_under_a_static_key(path: Path) -> None:
    change(path, f"{ATTENTION}.o_proj.weight", lambda a: a.astype(np.float32), "BF16")


@defect("B2", MOE)
def bf16_under_a_dynamic_key(path: Path) -> None:
    change(path, f"{EXPERTS}.1.gate_proj.weight", lambda a: a.astype(np.float32), "BF16")


@defect("B2")
def int64_deq_scale_in_a_bf16_model(path: Path) -> None:
    with tensors(path) as content:
        for name in [name for name in content if name.endswith("deq_scale")]:
            bits = content[name].array.astype(np.float32).view(np.uint32).astype(np.int64)
            content[name] = stored(bits, "I64")


@defect("B2")
def float32_deq_scale_in_an_fp16_model(path: Path) -> None:
    with config(path) as value, tensors(path) as content:
        value["dtype"] = value["torch_dtype"] = "float16"
        for name, tensor in content.items():
            if tensor.dtype == "BF16" and name.endswith((".weight", ".bias")):
                content[name] = stored(tensor.array, "F16")


@defect("B2")
def quant_bias_as_float(path: Path) -> None:
    change(path, f"{ATTENTION}.q_proj.quant_bias", lambda a: a.astype(np.float32), "F32")


@defect("B2", level="warning")
def float32_norm(path: Path) -> None:
    change(path, "model.layers.0.self_attn.q_norm.weight", lambda a: a, "F32")


@defect("B3", MOE)
def expert_float_beside_quantized(path: Path) -> None:
    for part in ("gate_proj", "up_proj", "down_proj"):
        _retype(path, f"{EXPERTS}.2.{part}", "FLOAT")


@defect("B3", MOE)
def expert_really_float(path: Path) -> None:
    with tensors(path) as content, description(path) as keys:
        for part in ("gate_proj", "up_proj", "down_proj"):
            name = f"{EXPERTS}.2.{part}"
            content[f"{name}.weight"] = stored(content[f"{name}.weight"].array.astype(np.float32), "BF16")
            for suffix in ("weight_scale", "weight_offset"):
                del content[f"{name}.{suffix}"], keys[f"{name}.{suffix}"]
            keys[f"{name}.weight"] = "FLOAT"


@defect("B3", MOE)
def keys_of_a_later_expert_missing(path: Path) -> None:
    _drop_key(path, f"{EXPERTS}.3.up_proj.weight")


def _rescale_input(path: Path, name: str, factor: float) -> None:
    """Another input_scale, and a deq_scale and quant_bias that fit it: only the fused parts disagree."""
    change(path, f"{name}.input_scale", lambda a: a * factor)
    change(path, f"{name}.deq_scale", lambda a: a * factor)
    with tensors(path) as content:
        deq, offset = content[f"{name}.deq_scale"].array, float(content[f"{name}.input_offset"].array[0])
        sums = content[f"{name}.weight"].array.astype(np.float64).sum(axis=1)
        bias = content[f"{name}.bias"].array if f"{name}.bias" in content else np.zeros_like(deq)
        content[f"{name}.quant_bias"] = stored(np.round(bias / deq - sums * offset), "I32")


@defect("B4", values=True)
def k_with_another_input_scale(path: Path) -> None:
    _rescale_input(path, f"{ATTENTION}.k_proj", 2.0)


@defect("B4", V1, values=True)
def v_with_another_input_offset(path: Path) -> None:
    with tensors(path) as content:
        name = f"{ATTENTION}.v_proj"
        offset = content[f"{name}.input_offset"].array + 1
        sums = content[f"{name}.weight"].array.astype(np.int64).sum(axis=1)
        content[f"{name}.input_offset"] = stored(offset, "F32")
        content[f"{name}.quant_bias"] = stored(content[f"{name}.quant_bias"].array - sums, "I32")


@defect("B5", values=True)
def offset_of_200(path: Path) -> None:
    for part in ("q_proj", "k_proj", "v_proj"):
        _offset(path, f"{ATTENTION}.{part}", 200.0)


@defect("B5", values=True)
def offset_of_a_half(path: Path) -> None:
    _offset(path, f"{ATTENTION}.o_proj", 3.5)


def _offset(path: Path, name: str, value: float) -> None:
    """Another input_offset, with a quant_bias that fits it."""
    with tensors(path) as content:
        old = content[f"{name}.input_offset"]
        sums = content[f"{name}.weight"].array.astype(np.float64).sum(axis=1)
        bias = content[f"{name}.quant_bias"].array - np.round(sums * (value - float(old.array[0])))
        content[f"{name}.input_offset"] = stored(np.full(1, value, np.float32), old.dtype)
        content[f"{name}.quant_bias"] = stored(bias, "I32")


@defect("B5", values=True)
def nan_in_a_scale(path: Path) -> None:
    change(path, f"{ATTENTION}.o_proj.deq_scale", _with(3, np.nan))


@defect("B5", MOE, values=True)
def zero_in_an_expert_scale(path: Path) -> None:
    change(path, f"{EXPERTS}.1.up_proj.weight_scale", _with(2, 0.0))


@defect("B5", MOE, values=True)
def negative_expert_scale(path: Path) -> None:
    change(path, f"{EXPERTS}.1.up_proj.weight_scale", _with(2, -0.01))


@defect("B5", values=True)
def infinity_in_the_embedding(path: Path) -> None:
    change(path, "model.embed_tokens.weight", _with(777, np.inf))


@defect("B5", values=True)
def nan_in_a_norm(path: Path) -> None:
    change(path, "model.layers.1.self_attn.k_norm.weight", _with(0, np.nan))


@defect("B5", MOE, level="warning", values=True)
def outlier_in_a_scale(path: Path) -> None:
    change(path, f"{EXPERTS}.0.down_proj.weight_scale", lambda a: _with(5, a.max() * 1000)(a))


@defect("B5", MOE, level="warning", values=True)
def expert_of_another_scale(path: Path) -> None:
    change(path, f"{EXPERTS}.0.down_proj.weight_scale", lambda a: a * 100)


def _with(position: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def put(array: np.ndarray) -> np.ndarray:
        array.reshape(-1)[position] = value
        return array

    return put


@defect("B6", ("v0-moe",), values=True)
def deq_scale_times_four(path: Path) -> None:
    change(path, f"{ATTENTION}.o_proj.deq_scale", lambda a: a * 4)


@defect("B6", values=True)
def quant_bias_zeroed(path: Path) -> None:
    change(path, f"{ATTENTION}.o_proj.quant_bias", np.zeros_like)


@defect("B6", values=True)
def quant_bias_of_q_stale(path: Path) -> None:
    change(path, f"{ATTENTION}.q_proj.quant_bias", lambda a: a[::-1].copy())


@defect("B6", QWEN2, values=True)
def bias_not_folded(path: Path) -> None:
    name = f"{ATTENTION}.k_proj"
    with tensors(path) as content:
        sums = content[f"{name}.weight"].array.astype(np.int64).sum(1)
        offset = float(content[f"{name}.input_offset"].array[0])
        content[f"{name}.quant_bias"] = stored(-sums * offset, "I32")


@defect("B6", QWEN2, values=True)
def bias_of_another_run(path: Path) -> None:
    change(path, f"{ATTENTION}.q_proj.bias", lambda a: a[::-1].copy())


@defect("B6", values=True)
def static_weight_of_another_layer(path: Path) -> None:
    with tensors(path) as content:
        for layer in (0, 1):
            assert f"model.layers.{layer}.self_attn.o_proj.weight" in content
        other = content["model.layers.0.self_attn.o_proj.weight"]
        content[f"{ATTENTION}.o_proj.weight"] = other


@defect("B7", values=True)
def asymmetric_weight(path: Path) -> None:
    with tensors(path) as content:
        name = next(name for name in content if name.endswith("down_proj.weight_offset"))
    change(path, name, lambda a: a + 3)


@defect("B8", ("v0-moe",))
def norm_biases_without_their_keys(path: Path) -> None:
    with description(path) as keys:
        for key in [key for key in keys if "norm.bias" in key]:
            del keys[key]


@defect("B8", ("v0-moe",))
def one_norm_bias_missing(path: Path) -> None:
    remove(path, "model.layers.1.post_attention_layernorm.bias")


@defect("B8", ("v1-moe",))
def norm_bias_key_without_biases(path: Path) -> None:
    with tensors(path) as content, description(path) as keys:
        content["model.norm.bias"] = stored(np.zeros(64, np.float32), "F32")
        keys["model.norm.bias"] = "FLOAT"


@defect("B8")
def bias_on_a_dynamic_linear(path: Path) -> None:
    with tensors(path) as content, description(path) as keys:
        name = next(name for name in content if name.endswith("down_proj.weight")).removesuffix(".weight")
        content[f"{name}.bias"] = stored(np.ones(64, np.float32), "BF16")
        keys[f"{name}.bias"] = "FLOAT"


@defect("B9")
def same_tensors_in_two_shards(path: Path) -> None:
    shutil.copyfile(edit.shard_of(path), path / "stale.safetensors")


@defect("B9")
def bf16_shards_with_their_index_left(path: Path) -> None:
    with tensors(path) as content:
        names = [name for name in content if name.endswith("_proj.weight")]
        old = {name: stored(np.ones(content[name].shape, np.float32), "BF16") for name in names}
    edit.write(path / "model-00001-of-00001.safetensors", old)
    value = {"weight_map": dict.fromkeys(old, "model-00001-of-00001.safetensors")}
    (path / "model.safetensors.index.json").write_text(json.dumps(value))


@defect("B9", level="error")
def vllm_index_lacks_a_tensor(path: Path) -> None:
    shard = edit.shard_of(path)
    names = [name for name in edit.read(shard) if name != "lm_head.weight"]
    value = {"weight_map": dict.fromkeys(names, shard.name)}
    (path / "model.safetensors.index.json").write_text(json.dumps(value))


@defect("B9")
def bytes_after_the_last_tensor(path: Path) -> None:
    with edit.shard_of(path).open("ab") as file:
        file.write(b"left over from a longer file")


@defect("B10", V1, level="note")
def null_key(path: Path) -> None:
    with description(path) as keys:
        keys["fa_quant_type"] = None


@defect("B10", V1, level="note")
def int8_kv_cache(path: Path) -> None:
    with description(path) as keys:
        keys["kv_cache_type"] = "C8"


@defect("B11", V1)
def rotation_missing(path: Path) -> None:
    (path / "optional" / "quarot.safetensors").unlink()


@defect("B11", V1)
def rotation_outside(path: Path) -> None:
    with description(path) as keys:
        keys["optional"]["quarot"]["rotation_map"]["global_rotation"] = "../quarot.safetensors"


@defect("B11", V1)
def rotation_of_another_size(path: Path) -> None:
    edit.write(
        path / "optional/quarot.safetensors", {"global_rotation": stored(np.eye(32, dtype="f4"), "F32")}
    )


@defect("B11", V1)
def rotation_not_orthogonal(path: Path) -> None:
    matrix = np.eye(64, dtype=np.float32)
    matrix[0, 1] = 0.5
    edit.write(path / "optional/quarot.safetensors", {"global_rotation": stored(matrix, "F32")})


@defect("B11", V1)
def tied_though_rotated(path: Path) -> None:
    with config(path) as value:
        value["tie_word_embeddings"] = True


@defect("B11", V1, values=True)
def last_norm_not_folded(path: Path) -> None:
    change(path, "model.norm.weight", lambda a: a * 1.25)


@defect("B11", V1, values=True)
def one_norm_not_folded(path: Path) -> None:
    change(path, "model.layers.1.post_attention_layernorm.weight", lambda a: a * 1.25)


@defect("B12", MOE, values=True)
def expert_weight_all_zero(path: Path) -> None:
    change(path, f"{EXPERTS}.2.up_proj.weight", np.zeros_like)


@defect("B12", values=True)
def lm_head_all_zero(path: Path) -> None:
    change(path, "lm_head.weight", np.zeros_like)


@defect("B12", MOE, values=True)
def expert_weight_saturated(path: Path) -> None:
    change(path, f"{EXPERTS}.2.up_proj.weight", lambda a: np.where(a < 0, -127, 127).astype(np.int8))


@defect("B12", MOE, level="warning", values=True)
def expert_weight_mostly_zero(path: Path) -> None:
    change(path, f"{EXPERTS}.2.up_proj.weight", lambda a: np.where(np.abs(a) > 120, a, 0).astype(np.int8))
