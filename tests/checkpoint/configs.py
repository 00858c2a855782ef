"""config.json files of small and large models, as far as the format needs them."""

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
QWEN3_235B = {
    **CONFIG,
    "hidden_size": 4096,
    "num_hidden_layers": 94,
    "num_attention_heads": 64,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 151936,
    "intermediate_size": 12288,
    "moe_intermediate_size": 1536,
    "num_experts": 128,
    "max_position_embeddings": 40960,
}
