"""Recorded config.json files of real models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

QWEN3_235B: dict[str, Any] = json.loads(
    (Path(__file__).parent / "qwen3-235b-a22b.json").read_text(encoding="utf-8")
)
"""Of Qwen/Qwen3-235B-A22B, as published on Hugging Face."""

QWEN25_7B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "model_type": "qwen2",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 152064,
}
"""Of Qwen/Qwen2.5-7B-Instruct, which has 7,615,616,512 parameters, as published on Hugging Face."""
