"""Package data: the tiny trained Qwen3-MoE checkpoint that rehearsals and the default recipe use.

`TINY_MODEL` is a Hugging Face directory (BF16, sharded); `TINY_PROBES` lists prompts and the greedy
continuations that the model gives them, before and after a sound W8A8 quantization; `TINY_CORPUS` is all
the text that it was trained on. `tests/assets/make_tiny_model.py` makes the first two from the third.
"""

from __future__ import annotations

from pathlib import Path

TINY_MODEL: Path = Path(__file__).parent / "tiny-qwen3-moe"
TINY_PROBES: Path = Path(__file__).parent / "tiny-qwen3-moe.probes.json"
TINY_CORPUS: Path = Path(__file__).parent / "tiny-qwen3-moe.corpus.json"
