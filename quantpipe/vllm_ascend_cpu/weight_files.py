"""What the safetensors headers of a checkpoint say, before any tensor is read.

Format: 8 bytes little-endian header length, a JSON object `name -> {dtype, shape,
data_offsets}`, then the data (https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpipe.checkpoint.names import INDEX, SHARD_GLOB

from .errors import CheckpointLoadError

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class StoredTensor:
    """One tensor in one file: its safetensors dtype (`I8`, `BF16`, ...) and its shape."""

    file: str
    dtype: str
    shape: tuple[int, ...]


def read_stored(model_dir: str) -> dict[str, list[StoredTensor]]:
    """All tensors that vLLM will read, by name; more than one entry is a duplicate.

    vLLM reads every *.safetensors of the directory itself, or, if there is an index of the name
    that Hugging Face uses, the files that the index names (vLLM: filter_duplicate_safetensors_files).

    Raises:
        CheckpointLoadError: no file, or one that is cut or not safetensors.
    """
    files = sorted(Path(model_dir).glob(SHARD_GLOB))
    index = Path(model_dir) / INDEX
    if index.is_file():
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        files = [file for file in files if file.name in named]
    if not files:
        raise CheckpointLoadError(
            "no *.safetensors to load",
            where=model_dir,
            hint=f"if {INDEX} names other files, the unquantized model left it: delete it",
        )
    stored: dict[str, list[StoredTensor]] = {}
    for file in files:
        for name, entry in _header(file).items():
            tensor = StoredTensor(file.name, entry["dtype"], tuple(entry["shape"]))
            stored.setdefault(name, []).append(tensor)
    return stored


def _header(path: Path) -> dict[str, Any]:
    hint = "copy or quantize it again; if it is not part of the checkpoint, delete it"
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(_LENGTH.size)
        length = _LENGTH.unpack(prefix)[0] if len(prefix) == _LENGTH.size else size
        if _LENGTH.size + length > size:
            raise CheckpointLoadError(
                "not a whole safetensors file: the header is cut", where=str(path), hint=hint
            )
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise CheckpointLoadError(
                f"not a safetensors file: {error}", where=str(path), hint=hint
            ) from error
    header.pop("__metadata__", None)
    end = _LENGTH.size + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if end != size:
        raise CheckpointLoadError(
            f"not a whole safetensors file: {size} bytes where the header announces {end}",
            where=str(path),
            hint=hint,
        )
    return dict(header)
