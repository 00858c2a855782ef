"""A small config.json, as far as the format needs it; those of real models are in helpers/configs.py."""

from __future__ import annotations

CONFIG = {
    "model_type": "qwen3_moe",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "moe_intermediate_size": 32,
    "num_experts": 8,
    "intermediate_size": 128,
}
