"""Real loads by the real engine, in this process, against the reference."""

from __future__ import annotations

from pathlib import Path

import pytest
from vllm import LLM, SamplingParams

from .checkpoints import Checkpoint, build, build_qwen2, make_float
from .engines import TOKENS, assert_close_to_reference, engine, engine_logprobs
from .reference import ReferenceModel


def assert_decodes_like_reference(directory: Path, llm: LLM) -> None:
    """Greedy tokens one by one: the decode path, where each product has one row."""
    sampling = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True, detokenize=False)
    (output,) = llm.generate([{"prompt_token_ids": TOKENS}], sampling, use_tqdm=False)
    reference, tokens = ReferenceModel(directory), list(TOKENS)
    for token in output.outputs[0].token_ids:
        last = reference.logprobs(tokens)[-1]
        assert last[token] > last.max() - 0.02, (tokens, token)
        tokens.append(token)
    assert len(tokens) == len(TOKENS) + 8


def compare(directory: Path, model: Checkpoint) -> None:
    model.write(directory)
    llm = engine(directory)
    assert_close_to_reference(directory, engine_logprobs(llm))
    assert_decodes_like_reference(directory, llm)


# vLLM initializes its groups once per process, the expert group only if the first model has experts:
# so the MoE models come first.
def test_moe_v1(tmp_path: Path) -> None:
    compare(tmp_path / "moe-v1", build(moe=True, layout="V1"))


@pytest.mark.slow
def test_moe_v0_with_norm_biases(tmp_path: Path) -> None:
    compare(tmp_path / "moe-v0", build(moe=True, layout="V0"))


@pytest.mark.slow
def test_moe_with_excluded_layers(tmp_path: Path) -> None:
    model = build(moe=True, layout="V1")
    make_float(model, "model.layers.0.self_attn.o_proj")
    for part in ("q_proj", "k_proj", "v_proj"):
        make_float(model, f"model.layers.1.self_attn.{part}")
    compare(tmp_path / "excluded", model)


@pytest.mark.slow
def test_dense_with_attention_bias(tmp_path: Path) -> None:
    """A static layer's bias is inside quant_bias and must not be added again; a FLOAT layer's is added."""
    model = build(moe=False, layout="V0")
    model.config["attention_bias"] = True
    for part in ("q_proj", "k_proj", "v_proj"):
        make_float(model, f"model.layers.1.self_attn.{part}")
    compare(tmp_path / "attention-bias", model)


@pytest.mark.slow
def test_dense_v1(tmp_path: Path) -> None:
    compare(tmp_path / "dense-v1", build(moe=False, layout="V1"))


def test_dense_v0_with_norm_biases(tmp_path: Path) -> None:
    compare(tmp_path / "dense-v0", build(moe=False, layout="V0"))


def test_qwen2_with_static_and_dynamic_biases(tmp_path: Path) -> None:
    compare(tmp_path / "qwen2", build_qwen2())
