"""The shipped tiny model: its files agree with each other, and it says what the probes say."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantpipe.assets import TINY_CORPUS, TINY_MODEL, TINY_PROBES

REPOSITORY = Path(__file__).parents[2]
QUANTIZE_PYTHON = Path(
    os.environ.get("QUANTPIPE_QUANTIZE_PYTHON") or REPOSITORY / ".venv-quantize" / "bin" / "python"
)
MEBIBYTE = 1 << 20

GREEDY = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads(1)
directory, probes = sys.argv[1], json.load(open(sys.argv[2], encoding="utf-8"))
tokenizer = AutoTokenizer.from_pretrained(directory)
model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).eval()
answers = []
for probe in probes:
    text = probe["prompt"]
    if probe["chat"]:
        messages = [{"role": "user", "content": text}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, return_tensors="pt").input_ids
    mask = torch.ones_like(ids)
    out = model.generate(ids, attention_mask=mask, max_new_tokens=probe["max_tokens"] + 8, do_sample=False)
    new = out[0, ids.shape[1]:]
    answers.append({"text": tokenizer.decode(new, skip_special_tokens=True), "tokens": len(new)})
print(json.dumps({"class": type(model).__name__, "answers": answers}))
"""


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def header(shard: Path) -> dict[str, Any]:
    """The tensors of a safetensors file: 8 bytes of length, then JSON."""
    data = shard.read_bytes()
    length = int(np.frombuffer(data[:8], "<u8")[0])
    tensors: dict[str, Any] = json.loads(data[8 : 8 + length])
    tensors.pop("__metadata__", None)
    assert max(t["data_offsets"][1] for t in tensors.values()) == len(data) - 8 - length, shard.name
    return tensors


def read_bf16(name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A tensor of the model as float32: BF16 is its upper half."""
    shard = TINY_MODEL / read_json(TINY_MODEL / "model.safetensors.index.json")["weight_map"][name]
    data = shard.read_bytes()
    entry = header(shard)[name]
    start = 8 + int(np.frombuffer(data[:8], "<u8")[0])
    begin, end = (start + offset for offset in entry["data_offsets"])
    bits = np.frombuffer(data[begin:end], "<u2").astype(np.uint32) << 16
    values: np.ndarray[Any, np.dtype[np.float32]] = bits.view(np.float32).reshape(entry["shape"])
    return values


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = read_json(TINY_MODEL / "config.json")
    return loaded


@pytest.fixture(scope="module")
def tensors() -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for shard in sorted(TINY_MODEL.glob("*.safetensors")):
        found = header(shard)
        assert not merged.keys() & found.keys(), f"{shard.name} repeats tensors"
        merged |= found
    return merged


@pytest.fixture(scope="module")
def probes() -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = read_json(TINY_PROBES)
    return loaded


def test_is_small_enough_to_ship() -> None:
    assert sum(f.stat().st_size for f in TINY_MODEL.iterdir()) <= 8 * MEBIBYTE


def test_holds_the_files_of_a_hugging_face_directory_and_nothing_else() -> None:
    shards = {f.name for f in TINY_MODEL.glob("model-*-of-*.safetensors")}
    assert len(shards) >= 2
    assert {f.name for f in TINY_MODEL.iterdir()} - shards == {
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_index_and_shards_agree(tensors: dict[str, Any]) -> None:
    index = read_json(TINY_MODEL / "model.safetensors.index.json")
    weight_map = index["weight_map"]
    assert weight_map.keys() == tensors.keys()
    for shard in TINY_MODEL.glob("*.safetensors"):
        assert header(shard).keys() == {name for name, file in weight_map.items() if file == shard.name}
    sizes = [t["data_offsets"][1] - t["data_offsets"][0] for t in tensors.values()]
    assert index["metadata"]["total_size"] == sum(sizes)


def test_every_tensor_is_bf16_and_finite(tensors: dict[str, Any]) -> None:
    assert {t["dtype"] for t in tensors.values()} == {"BF16"}
    for shard in TINY_MODEL.glob("*.safetensors"):
        data = shard.read_bytes()
        start = 8 + int(np.frombuffer(data[:8], "<u8")[0])
        exponents = np.frombuffer(data[start:], "<u2") >> 7 & 0xFF
        assert exponents.max() < 0xFF, f"{shard.name} holds an infinity or a NaN"


def test_outliers_stand_out_of_norms_and_embedding(config: dict[str, Any]) -> None:
    """What makes rotation and smoothing worth testing: a few channels 20 times the median and more."""
    peaks = {"model.embed_tokens.weight": np.abs(read_bf16("model.embed_tokens.weight")).mean(axis=0)}
    for index in range(config["num_hidden_layers"]):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            name = f"model.layers.{index}.{norm}.weight"
            peaks[name] = np.abs(read_bf16(name))
    for name, peak in peaks.items():
        outliers = int((peak >= 20 * np.median(peak)).sum())
        assert 2 <= outliers <= config["hidden_size"] // 16, name


def test_tensor_names_and_shapes_follow_the_config(config: dict[str, Any], tensors: dict[str, Any]) -> None:
    hidden, expert = config["hidden_size"], config["moe_intermediate_size"]
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    layer = {
        "input_layernorm": [hidden],
        "post_attention_layernorm": [hidden],
        "self_attn.q_proj": [q, hidden],
        "self_attn.k_proj": [kv, hidden],
        "self_attn.v_proj": [kv, hidden],
        "self_attn.o_proj": [hidden, q],
        "self_attn.q_norm": [config["head_dim"]],
        "self_attn.k_norm": [config["head_dim"]],
        "mlp.gate": [config["num_experts"], hidden],
    }
    for number in range(config["num_experts"]):
        layer[f"mlp.experts.{number}.gate_proj"] = [expert, hidden]
        layer[f"mlp.experts.{number}.up_proj"] = [expert, hidden]
        layer[f"mlp.experts.{number}.down_proj"] = [hidden, expert]
    expected = {
        f"model.layers.{index}.{name}.weight": shape
        for index in range(config["num_hidden_layers"])
        for name, shape in layer.items()
    }
    vocabulary = [config["vocab_size"], hidden]
    expected |= {"model.embed_tokens.weight": vocabulary, "lm_head.weight": vocabulary}
    expected["model.norm.weight"] = [hidden]
    assert {name: tensor["shape"] for name, tensor in tensors.items()} == expected


def test_config_is_in_the_form_that_msmodelslim_and_vllm_read(config: dict[str, Any]) -> None:
    assert config["architectures"] == ["Qwen3MoeForCausalLM"]
    assert config["model_type"] == "qwen3_moe"
    assert config["torch_dtype"] == "bfloat16"
    assert config["rope_theta"] == 1000000.0
    assert config["tie_word_embeddings"] is False
    assert config["num_experts"] > config["num_experts_per_tok"] > 1
    assert config["num_attention_heads"] > config["num_key_value_heads"] > 1
    # What transformers 5 writes, and what would pass the checkpoint off as quantized.
    assert not config.keys() & {"dtype", "num_local_experts", "rope_parameters", "quantization_config"}
    for size in (config["hidden_size"], config["head_dim"]):
        assert size & (size - 1) == 0, "a Hadamard rotation wants powers of two"


def test_tokenizer_files_agree_with_the_config(config: dict[str, Any]) -> None:
    tokenizer = read_json(TINY_MODEL / "tokenizer.json")
    settings = read_json(TINY_MODEL / "tokenizer_config.json")
    ids = tokenizer["model"]["vocab"] | {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
    assert sorted(ids.values()) == list(range(config["vocab_size"]))
    assert settings["eos_token"] == "<|im_end|>"
    assert config["eos_token_id"] == ids["<|im_end|>"]
    generation = read_json(TINY_MODEL / "generation_config.json")
    assert set(generation["eos_token_id"]) == {ids["<|im_end|>"], ids["<|endoftext|>"]}
    assert "<|im_start|>" in settings["chat_template"]


def test_probes_are_well_formed(probes: list[dict[str, Any]]) -> None:
    assert len(probes) >= 12
    assert 2 <= sum(p["chat"] for p in probes) < len(probes)
    prompts = [p["prompt"] for p in probes]
    assert len(set(prompts)) == len(prompts)
    for p in probes:
        assert p.keys() == {"prompt", "continuation", "max_tokens", "chat"}
        assert p["continuation"].strip()
        assert 0 < p["max_tokens"] <= len(p["continuation"].encode()) + 1


def test_probes_are_texts_of_the_corpus(probes: list[dict[str, Any]]) -> None:
    corpus = {(d["prompt"], d["continuation"], d["chat"]) for d in read_json(TINY_CORPUS) if d["probe"]}
    assert {(p["prompt"], p["continuation"], p["chat"]) for p in probes} == corpus


@pytest.mark.parametrize("text", ["Zürich costs 7 €", "一二三 \U0001f600", "tab\tand\r\nlines\x00"])
def test_tokenizer_encodes_any_text(text: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(TINY_MODEL / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_tokenizer_gives_the_probes_back(probes: list[dict[str, Any]]) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(TINY_MODEL / "tokenizer.json"))
    for p in probes:
        prompt, rest = (tokenizer.encode(p[key]).ids for key in ("prompt", "continuation"))
        assert tokenizer.decode(prompt + rest) == p["prompt"] + p["continuation"]
        assert len(rest) + 1 == p["max_tokens"], "the token that ends the generation counts"


@pytest.mark.slow
@pytest.mark.quantize_env
@pytest.mark.skipif(not QUANTIZE_PYTHON.exists(), reason="no .venv-quantize")
def test_greedy_decoding_gives_the_probes(probes: list[dict[str, Any]]) -> None:
    done = subprocess.run(
        [str(QUANTIZE_PYTHON), "-c", GREEDY, str(TINY_MODEL), str(TINY_PROBES)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["class"] == "Qwen3MoeForCausalLM"
    assert [a["text"] for a in report["answers"]] == [p["continuation"] for p in probes]
    assert [a["tokens"] for a in report["answers"]] == [p["max_tokens"] for p in probes]
