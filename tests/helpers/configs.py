"""Recorded config.json files of real models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

QWEN3_235B: dict[str, Any] = json.loads(
    (Path(__file__).parent / "qwen3-235b-a22b.json").read_text(encoding="utf-8")
)
"""Of Qwen/Qwen3-235B-A22B, as published on Hugging Face."""
