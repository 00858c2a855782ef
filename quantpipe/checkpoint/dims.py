"""The model's dimensions, from config.json as vLLM reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MODEL_TYPES = ("qwen3_moe", "qwen3")
_MAX_LAYERS = 4096
_MAX_EXPERTS = 16384
MAX_EXPERTS_IN_ALL = 100_000
"""Layers times experts: Qwen3-235B has 12,032. More is not listed, let alone checked."""
_MAX_DIMENSION = 1 << 31


@dataclass(frozen=True)
class Dims:
    """Sizes of a Qwen3 or Qwen3-MoE model.

    Attributes:
        model_type: `qwen3_moe` or `qwen3`.
        hidden: width of the residual stream.
        intermediate: width of a dense MLP.
        moe_intermediate: width of one expert.
        experts: routed experts per sparse layer; 0 for a dense model.
        sparse_step, dense_layers: which layers have experts (decoder_sparse_step, mlp_only_layers).
        tied: whether lm_head is the embedding.
        dtype: `BF16` or `F16`, as headers name it: the type that the model runs in.
    """

    model_type: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    intermediate: int
    moe_intermediate: int
    experts: int
    sparse_step: int
    dense_layers: frozenset[int]
    tied: bool
    attention_bias: bool
    dtype: str
    max_positions: int

    def sparse(self, layer: int) -> bool:
        """Whether this layer has experts (the rule of transformers' Qwen3MoeDecoderLayer)."""
        return self.experts > 0 and layer not in self.dense_layers and (layer + 1) % self.sparse_step == 0

    @property
    def sparse_layers(self) -> int:
        """How many layers have experts."""
        return sum(self.sparse(layer) for layer in range(self.layers))

    @property
    def expert_weights(self) -> int:
        """Weights of all routed experts: gate, up and down, one byte each where they are int8."""
        return self.sparse_layers * self.experts * 3 * self.moe_intermediate * self.hidden


def read_dims(config: dict[str, Any]) -> Dims:
    """The dimensions in a config.json.

    Raises:
        ValueError: a key is missing or makes no sense; the text names it.
    """
    model_type = config.get("model_type")
    if model_type not in MODEL_TYPES:
        raise ValueError(f"model_type {str(model_type)[:60]!r} is not one of {', '.join(MODEL_TYPES)}")
    moe = model_type == "qwen3_moe"
    if moe and "num_experts" not in config and "num_local_experts" in config:
        raise ValueError(
            "num_experts is missing: num_local_experts is the form of transformers 5, which vLLM does "
            "not read"
        )
    heads = _count(config, "num_attention_heads")
    hidden = _count(config, "hidden_size")
    dims = Dims(
        model_type=str(model_type),
        layers=_count(config, "num_hidden_layers", most=_MAX_LAYERS),
        hidden=hidden,
        heads=heads,
        kv_heads=_count(config, "num_key_value_heads", default=heads),
        head_dim=_count(config, "head_dim", default=max(1, hidden // heads)),
        vocab=_count(config, "vocab_size"),
        intermediate=_count(config, "intermediate_size", default=1 if moe else None),
        moe_intermediate=_count(config, "moe_intermediate_size") if moe else 0,
        experts=_count(config, "num_experts", most=_MAX_EXPERTS) if moe else 0,
        sparse_step=_count(config, "decoder_sparse_step", default=1),
        dense_layers=_layer_list(config.get("mlp_only_layers")),
        tied=config.get("tie_word_embeddings") is True,
        attention_bias=config.get("attention_bias") is True,
        dtype=_dtype(config),
        max_positions=_count(config, "max_position_embeddings", default=32768),
    )
    if dims.layers * max(1, dims.experts) > MAX_EXPERTS_IN_ALL:
        raise ValueError(f"num_hidden_layers {dims.layers} times num_experts {dims.experts} is no real model")
    return dims


def _count(
    config: dict[str, Any], key: str, *, default: int | None = None, most: int = _MAX_DIMENSION
) -> int:
    value = config.get(key)
    if value is None and default is not None:
        return default
    if value is None:
        raise ValueError(f"{key} is missing")
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"{key} is {str(value)[:60]!r}, not a whole number from 1 to {most:,}")
    return value


def _layer_list(value: Any) -> frozenset[int]:
    if value is None:
        return frozenset()
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise ValueError("mlp_only_layers is no list of layer numbers")
    return frozenset(value)


def _dtype(config: dict[str, Any]) -> str:
    """transformers 4.57 writes `dtype`, earlier ones `torch_dtype`."""
    value = config.get("dtype", config.get("torch_dtype", "bfloat16"))
    known = {"bfloat16": "BF16", "float16": "F16"}
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"dtype {str(value)[:60]!r} is neither bfloat16 nor float16")
    return known[value]
