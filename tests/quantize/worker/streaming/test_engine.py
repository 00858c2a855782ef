"""Engine streaming writes what engine stock writes: every tensor, type and entry, over many shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantpipe.checkpoint.names import DESCRIPTION, INDEX

from ..engines import DENSE, MOE, OTHER, QWEN2, SHORT, Quantizer, files, spec, tensors

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "moe": (MOE, {}),
    "moe of four, top 1": ({**MOE, "num_experts": 4, "num_experts_per_tok": 1}, {}),
    "moe of 64, top 8, unnormalized": (
        {
            **MOE,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "norm_topk_prob": False,
            "moe_intermediate_size": 16,
        },
        {},
    ),
    "one head each": ({**MOE, "num_key_value_heads": 4}, {}),
    "all heads share one": ({**MOE, "num_key_value_heads": 1}, {}),
    "hidden 96": ({**MOE, "hidden_size": 96}, {}),
    "hidden 80": ({**MOE, "hidden_size": 80}, {"rotate": False}),
    "hidden 160": ({**MOE, "hidden_size": 160, "num_experts": 4}, {}),
    "not rotated": (MOE, {"rotate": False}),
    "not smoothed": (MOE, {"method": "none"}),
    "neither": (MOE, {"rotate": False, "method": "none"}),
    "many shards": ({**MOE, "shard": "60KB"}, {}),
    "dense": (DENSE, {}),
    "dense, not rotated": (DENSE, {"rotate": False}),
    "dense, not smoothed": (DENSE, {"method": "none"}),
    "dense with biases": ({**DENSE, "attention_bias": True}, {}),
    "dense with biases, not rotated": ({**DENSE, "attention_bias": True}, {"rotate": False}),
    "qwen2, as msmodelslim can": (QWEN2, {"rotate": False, "method": "none"}),
    "epsilon": ({**MOE, "rms_norm_eps": 1e-5}, {}),
}


def entries(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "checkpoint" / DESCRIPTION).read_text())
    return value


@pytest.mark.parametrize("name", CASES)
def test_both_engines_write_the_same(quantizer: Quantizer, tmp_path: Path, name: str) -> None:
    model, recipe = CASES[name]
    snapshot = quantizer.make(tmp_path / "model", **model)
    for engine in ("stock", "streaming"):
        done = quantizer.run(snapshot, tmp_path / engine, engine, process=spec(**recipe))
        assert done["status"] == 0, done["events"]
    stock, ours = (tensors(tmp_path / engine / "checkpoint") for engine in ("stock", "streaming"))
    assert stock == ours
    assert entries(tmp_path / "stock") == entries(tmp_path / "streaming")
    index = json.loads((tmp_path / "streaming" / "checkpoint" / INDEX).read_text())
    assert set(index["weight_map"]) == {name for name in ours if name != "global_rotation"}


@pytest.mark.parametrize("recipe", [{}, {"method": "none"}, {"rotate": False}], ids=str)
def test_qwen2_is_rotated_and_smoothed_as_a_qwen3_would_be(
    quantizer: Quantizer, tmp_path: Path, recipe: dict[str, Any]
) -> None:
    """msmodelslim's adapter of Qwen2.5 can do neither; that of Qwen3 names the same modules."""
    snapshot = quantizer.make(tmp_path / "model", **QWEN2)
    process = spec(**recipe)
    done = quantizer.run(snapshot, tmp_path / "stock", "stock", process=process, adapter="Qwen3-32B")
    assert done["status"] == 0, done["events"]
    assert quantizer.run(snapshot, tmp_path / "ours", process=process)["status"] == 0
    assert tensors(tmp_path / "stock" / "checkpoint") == tensors(tmp_path / "ours" / "checkpoint")
    assert entries(tmp_path / "stock") == entries(tmp_path / "ours")


def test_two_threads_give_stocks_bits_of_two_threads(quantizer: Quantizer, tmp_path: Path) -> None:
    snapshot = quantizer.make(tmp_path / "model", **{**MOE, "hidden_size": 128, "num_hidden_layers": 1})
    for engine in ("stock", "streaming"):
        assert quantizer.run(snapshot, tmp_path / engine, engine, threads=2)["status"] == 0
    assert tensors(tmp_path / "stock" / "checkpoint") == tensors(tmp_path / "streaming" / "checkpoint")


@pytest.mark.parametrize("model", [MOE, DENSE], ids=["moe", "dense"])
@pytest.mark.parametrize("rotate", [True, False])
def test_tied_embeddings_are_untied_and_equal_the_untied_twin(
    quantizer: Quantizer, tmp_path: Path, model: dict[str, Any], rotate: bool
) -> None:
    tied = quantizer.make(tmp_path / "tied", **{**model, "tie_word_embeddings": True})
    twin = quantizer.make(tmp_path / "twin", **{**model, "tie_word_embeddings": True})
    untie(twin)
    process = spec(rotate=rotate)
    assert quantizer.run(tied, tmp_path / "a", process=process)["status"] == 0
    assert quantizer.run(twin, tmp_path / "b", "stock", process=process)["status"] == 0
    assert tensors(tmp_path / "a" / "checkpoint") == tensors(tmp_path / "b" / "checkpoint")
    config = json.loads((tmp_path / "a" / "checkpoint" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False


def untie(folder: Path) -> None:
    """Give a tied model's files an lm_head of their own, with the embedding's values."""
    file = folder / "model.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    body = data[8 + length :]
    assert "lm_head.weight" not in header
    entry = header["model.embed_tokens.weight"]
    begin, end = entry["data_offsets"]
    header["lm_head.weight"] = {**entry, "data_offsets": [len(body), len(body) + end - begin]}
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + body + body[begin:end])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))


@pytest.mark.parametrize(
    "layout", [{"mlp_only_layers": [1]}, {"decoder_sparse_step": 2}], ids=["mlp only", "sparse step"]
)
def test_layers_without_experts(quantizer: Quantizer, tmp_path: Path, layout: dict[str, Any]) -> None:
    """Engine stock cannot: its maps name experts there. So the dense layers' kinds and shapes are checked,
    and that the other layers come out as in a model of experts only, up to the first dense one."""
    model = {**MOE, "num_hidden_layers": 3, **layout}
    snapshot = quantizer.make(tmp_path / "model", **model)
    done = quantizer.run(snapshot, tmp_path / "out")
    assert done["status"] == 0, done["events"]
    found, described = tensors(tmp_path / "out" / "checkpoint"), entries(tmp_path / "out")
    dense = [1] if "mlp_only_layers" in layout else [0, 2]
    for layer in range(3):
        name = f"model.layers.{layer}.mlp.{'' if layer in dense else 'experts.7.'}down_proj.weight"
        assert found[name][:2] == ("I8", (64, 96 if layer in dense else 32))
        assert described[name] == "W8A8_DYNAMIC"
        assert (f"model.layers.{layer}.mlp.gate.weight" in found) == (layer not in dense)
    assert quantizer.run(snapshot, tmp_path / "stock", "stock")["status"] != 0


def test_the_anti_outlier_set_decides_the_smoothing_and_nothing_else(
    quantizer: Quantizer, tmp_path: Path
) -> None:
    snapshot = quantizer.make(tmp_path / "model", **{**MOE, "num_hidden_layers": 1})
    one = quantizer.run(snapshot, tmp_path / "one")
    same = quantizer.run(snapshot, tmp_path / "same", smoothing=SHORT)
    other = quantizer.run(snapshot, tmp_path / "other", smoothing=OTHER)
    scales = quantizer.run(snapshot, tmp_path / "scales", prompts=OTHER, smoothing=SHORT)
    swapped = quantizer.run(snapshot, tmp_path / "swapped", prompts=OTHER)
    assert {run["status"] for run in (one, same, other, scales, swapped)} == {0}
    names = ("one", "same", "other", "scales", "swapped")
    found = {name: tensors(tmp_path / name / "checkpoint") for name in names}
    assert found["same"] == found["one"]
    norm, query = "model.layers.0.input_layernorm.weight", "model.layers.0.self_attn.q_proj."
    # Smoothing follows its own set: the norm carries the scales.
    assert found["other"][norm] == found["swapped"][norm] != found["one"][norm]
    assert found["scales"][norm] == found["one"][norm]
    assert found["scales"][query + "weight"] == found["one"][query + "weight"]
    # Activation scales follow the calibration set.
    assert found["scales"][query + "input_scale"] != found["one"][query + "input_scale"]
    output = "model.layers.0.self_attn.o_proj."
    assert found["scales"][output + "weight"] == found["one"][output + "weight"]
    assert found["other"][output + "weight"] == found["one"][output + "weight"]


def test_the_tutorials_iter_smooth_works_on_bf16(quantizer: Quantizer, tmp_path: Path) -> None:
    """Its replacement norm returns float32, with which the stock engine fails."""
    snapshot = quantizer.make(tmp_path / "model", **MOE)
    process = spec(method="iter_smooth")
    stock = quantizer.run(snapshot, tmp_path / "stock", "stock", process=process)
    assert "same dtype" in stock["events"][-1]["message"]
    assert quantizer.run(snapshot, tmp_path / "ours", process=process)["status"] == 0
    assert quantizer.run(snapshot, tmp_path / "plain", process=spec(method="none"))["status"] == 0
    ours, plain = tensors(tmp_path / "ours" / "checkpoint"), tensors(tmp_path / "plain" / "checkpoint")
    assert ours.keys() == plain.keys()
    for name in ("input_layernorm.weight", "self_attn.q_proj.weight"):
        assert ours[f"model.layers.0.{name}"] != plain[f"model.layers.0.{name}"]
    untouched = "model.layers.0.mlp.experts.0.down_proj.weight"
    assert ours[untouched] == plain[untouched]


def test_a_damaged_snapshot_is_named(quantizer: Quantizer, tmp_path: Path) -> None:
    snapshot = quantizer.make(tmp_path / "model", **{**MOE, "shard": "60KB"})
    victim = sorted(snapshot.glob("model-*.safetensors"))[1]
    victim.write_bytes(victim.read_bytes()[:-100])
    event = quantizer.run(snapshot, tmp_path / "out")["events"][-1]
    assert event["type"] == "SnapshotError"
    assert victim.name in event["message"]


def test_output_is_the_same_every_time(quantizer: Quantizer, tmp_path: Path) -> None:
    snapshot = quantizer.make(tmp_path / "model", **MOE)
    for name in "ab":
        assert quantizer.run(snapshot, tmp_path / name)["status"] == 0
    assert files(tmp_path / "a" / "checkpoint") == files(tmp_path / "b" / "checkpoint")
