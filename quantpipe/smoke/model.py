"""What of a model's config.json decides whether a serve profile fits it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantpipe.checkpoint.names import CONFIG, SHARD_GLOB


@dataclass(frozen=True)
class ModelFigures:
    """Figures of a model, 0 where config.json does not say.

    Attributes:
        heads: attention heads.
        kv_heads: key and value heads.
        experts: routed experts of a layer; 0 for a dense model.
        moe_intermediate: width of one expert.
        native_length: tokens that the model was made for, without YaRN.
        rope: the rope parameters of config.json; empty without any scaling.
        weight_bytes: of the checkpoint, in all.
        expert_bytes: of them, in routed experts.
        w8a8: whether it is quantized that way; None where nobody says.
    """

    heads: int = 0
    kv_heads: int = 0
    experts: int = 0
    moe_intermediate: int = 0
    native_length: int = 0
    rope: dict[str, Any] = field(default_factory=dict)
    weight_bytes: int = 0
    expert_bytes: int = 0
    w8a8: bool | None = None

    @classmethod
    def of(cls, config: dict[str, Any], weight_bytes: int = 0) -> ModelFigures:
        """From the keys of config.json that transformers documents for Qwen3 and Qwen3-MoE."""
        experts = _whole(config, "num_experts") or _whole(config, "num_local_experts")
        width = _whole(config, "moe_intermediate_size")
        layers = _whole(config, "num_hidden_layers") - len(_list(config, "mlp_only_layers"))
        # Gate, up and down of every expert, a byte per weight; scales are a thousandth of it.
        expert_bytes = layers * experts * 3 * width * _whole(config, "hidden_size")
        heads = _whole(config, "num_attention_heads")
        quantize = config.get("quantize")
        return cls(
            heads=heads,
            kv_heads=_whole(config, "num_key_value_heads") or heads,
            experts=experts,
            moe_intermediate=width,
            native_length=_whole(config, "max_position_embeddings"),
            rope=_rope(config),
            weight_bytes=weight_bytes,
            expert_bytes=min(expert_bytes, weight_bytes),
            w8a8=quantize.lower().startswith("w8a8") if isinstance(quantize, str) else None,
        )


def read_model(directory: Path) -> ModelFigures | None:
    """The figures of a checkpoint directory; None where its config.json cannot be read."""
    try:
        config = json.loads((directory / CONFIG).read_text("utf-8"))
        size = sum(path.stat().st_size for path in directory.glob(SHARD_GLOB))
    except (OSError, ValueError):
        return None
    return ModelFigures.of(config, size) if isinstance(config, dict) else None


def _whole(config: dict[str, Any], key: str) -> int:
    value = config.get(key)
    return value if isinstance(value, int) and value > 0 else 0


def _list(config: dict[str, Any], key: str) -> list[Any]:
    value = config.get(key)
    return value if isinstance(value, list) else []


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    for key in ("rope_scaling", "rope_parameters"):
        value = config.get(key)
        if isinstance(value, dict):
            return value
    return {}
