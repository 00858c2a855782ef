from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantpipe.console import Console
from quantpipe.recipe.files import Prompts
from quantpipe.recipe.model import Recipe
from quantpipe.settings import Settings
from quantpipe.stage import Context
from quantpipe.store.store import Store


def shard_bytes(names: list[str], size: int, *, fill: int = 1) -> bytes:
    """A safetensors file with tensors of `size` bytes each."""
    header: dict[str, Any] = {
        name: {"dtype": "U8", "shape": [size], "data_offsets": [i * size, (i + 1) * size]}
        for i, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    body = b"".join(bytes([(fill + i) % 256]) * size for i in range(len(names)))
    return struct.pack("<Q", len(text)) + text + body


def model_files(shards: int = 3, size: int = 1000, fill: int = 1) -> dict[str, bytes]:
    """A small repository: config, tokenizer, index and shards."""
    names = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    weights = {f"layer.{i}.weight": name for i, name in enumerate(names)}
    files = {name: shard_bytes([f"layer.{i}.weight"], size, fill=fill + i) for i, name in enumerate(names)}
    index = {"metadata": {"total_size": shards * size}, "weight_map": weights}
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    files["config.json"] = json.dumps({"model_type": "qwen3_moe", "num_hidden_layers": shards}).encode()
    files["tokenizer.json"] = b'{"version": "1.0"}'
    return files


def write_files(root: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def read_files(root: Path) -> dict[str, bytes]:
    """The visible content of a snapshot."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and ".quantpipe" not in path.parts
    }


MakeContext = Callable[..., Context]


@pytest.fixture
def make_context(tmp_path: Path) -> MakeContext:
    """`make_context(repo, hub=..., trust=..., include=...)`: the context of a run on a store in tmp_path."""

    def make(
        repo: str | Path, *, hub: str = "local", trust: bool = False, jobs: int = 2, **source: Any
    ) -> Context:
        recipe = Recipe.model_validate(
            {
                "name": "tiny",
                "source": {"hub": hub, "repo": str(repo), **source},
                "quantize": {
                    "calibration": {"dataset": Prompts(Path("unused.jsonl"), ("unused",))},
                    "trust_remote_code": trust,
                },
            }
        )
        store = Store(tmp_path / "store")
        settings = Settings(store=store.root, jobs=jobs)
        return Context(recipe, settings, store, Console("quiet"), store.new_run("tiny"))

    return make
