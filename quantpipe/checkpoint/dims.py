"""The model's dimensions, from config.json as transformers and vLLM read it. Standard library only.

This is the only reader of sizes in a config.json: verify and the exact checks need all of them; estimates,
the rules of a serve profile and the vLLM plugin use what exists (`partial`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MODEL_TYPES = ("qwen3_moe", "qwen3", "qwen2")
_QKV = ("q_proj", "k_proj", "v_proj")
_MAX_LAYERS = 4096
_MAX_EXPERTS = 16384
MAX_EXPERTS_IN_ALL = 100_000
"""Layers times experts: Qwen3-235B has 12,032. More is not listed, let alone checked."""
_MAX_DIMENSION = 1 << 31

_ABSENT: Mapping[str, Mapping[str, int]] = {
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
    "qwen3_moe": {"num_key_value_heads": 4},
}
"""What transformers' configuration classes (4.57.6 and 5.23.0) put where config.json lacks the key. A null
stays a null, for which the models take one KV head per head, and hidden_size // num_attention_heads."""


@dataclass(frozen=True)
class Dims:
    """Sizes of a Qwen3-MoE, Qwen3 or Qwen2 model (Qwen2.5 is a Qwen2).

    Attributes:
        model_type: one of MODEL_TYPES.
        hidden: width of the residual stream.
        intermediate: width of a dense MLP.
        moe_intermediate: width of one expert.
        experts: routed experts per sparse layer; 0 for a dense model.
        active_experts: experts that a token goes through; 0 for a dense model.
        sparse_step, dense_layers: which layers have experts (decoder_sparse_step, mlp_only_layers).
        kv_heads: heads of keys and values, which groups of attention heads share.
        tied: whether lm_head is the embedding.
        head_norms: whether q and k go through a norm of each head (q_norm, k_norm).
        biased: the linears that have a bias, by the last part of their names.
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
    active_experts: int
    sparse_step: int
    dense_layers: frozenset[int]
    tied: bool
    head_norms: bool
    biased: frozenset[str]
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


def read_dims(config: Mapping[str, Any], *, partial: bool = False) -> Dims:
    """The dimensions in a config.json.

    Args:
        partial: take any model type, and 0 for a size that is missing or makes no sense (False, nothing
            and "" for keys that are not sizes): for estimates.

    Raises:
        ValueError: a key is missing or makes no sense; the text names it. Never with `partial`.
    """
    if partial:
        return _Reader(config, partial=True).dims()
    model_type = config.get("model_type")
    if model_type not in MODEL_TYPES:
        raise ValueError(f"model_type {str(model_type)[:60]!r} is not one of {', '.join(MODEL_TYPES)}")
    if model_type == "qwen3_moe" and "num_experts" not in config and "num_local_experts" in config:
        raise ValueError(
            "num_experts is missing: num_local_experts is transformers 5's name for it, which vLLM does "
            "not read"
        )
    dims = _Reader(config, partial=False).dims()
    if dims.layers * max(1, dims.experts) > MAX_EXPERTS_IN_ALL:
        raise ValueError(
            f"num_hidden_layers {dims.layers} times num_experts {dims.experts} is not a plausible model"
        )
    return dims


@dataclass(frozen=True)
class _Reader:
    """Takes sizes out of a config.json, as `read_dims` documents."""

    config: Mapping[str, Any]
    partial: bool

    def dims(self) -> Dims:
        heads, hidden = self._count("num_attention_heads"), self._count("hidden_size")
        experts = self._experts()
        return Dims(
            model_type=str(self.config.get("model_type") or ""),
            layers=self._count("num_hidden_layers", most=_MAX_LAYERS),
            hidden=hidden,
            heads=heads,
            kv_heads=self._count("num_key_value_heads", default=heads),
            head_dim=self._count("head_dim", default=max(1, hidden // max(1, heads))),
            vocab=self._count("vocab_size"),
            intermediate=self._count("intermediate_size", default=1 if experts else None),
            moe_intermediate=self._count("moe_intermediate_size") if experts else 0,
            experts=experts,
            active_experts=self._count("num_experts_per_tok", default=8) if experts else 0,
            sparse_step=self._count("decoder_sparse_step", default=1) or 1,
            dense_layers=self._layer_list("mlp_only_layers"),
            tied=self.config.get("tie_word_embeddings") is True,
            head_norms=self.config.get("model_type") != "qwen2",
            biased=self._biased(),
            dtype=self._dtype(),
            max_positions=self._count("max_position_embeddings", default=None if self.partial else 32768),
        )

    def _experts(self) -> int:
        if self.partial:
            key = "num_experts" if self.config.get("num_experts") else "num_local_experts"
            return self._count(key, most=_MAX_EXPERTS)
        moe = self.config.get("model_type") == "qwen3_moe"
        return self._count("num_experts", most=_MAX_EXPERTS) if moe else 0

    def _biased(self) -> frozenset[str]:
        if self.config.get("model_type") == "qwen2":
            return frozenset(_QKV)
        return frozenset((*_QKV, "o_proj") if self.config.get("attention_bias") is True else ())

    def _count(self, key: str, *, default: int | None = None, most: int = _MAX_DIMENSION) -> int:
        value = self.config.get(key)
        if value is None and default is not None:
            absent = _ABSENT.get(str(self.config.get("model_type")), {}) if key not in self.config else {}
            return absent.get(key, default)
        if type(value) is int and 1 <= value <= most:
            return value
        if self.partial:
            return 0
        if value is None:
            raise ValueError(f"{key} is missing")
        raise ValueError(f"{key} is {str(value)[:60]!r}, not an integer from 1 to {most:,}")

    def _layer_list(self, key: str) -> frozenset[int]:
        value = self.config.get(key)
        if isinstance(value, list) and all(type(item) is int for item in value):
            return frozenset(value)
        if value is None or self.partial:
            return frozenset()
        raise ValueError(f"{key} is not a list of layer numbers")

    def _dtype(self) -> str:
        """transformers 4.57 writes `dtype`, earlier ones `torch_dtype`."""
        value = self.config.get("dtype", self.config.get("torch_dtype", "bfloat16"))
        known = {"bfloat16": "BF16", "float16": "F16"}
        if isinstance(value, str) and value in known:
            return known[value]
        if self.partial:
            return ""
        raise ValueError(f"dtype {str(value)[:60]!r} is neither bfloat16 nor float16")
