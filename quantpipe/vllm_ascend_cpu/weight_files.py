"""The tensors that vLLM will read from a checkpoint, from the headers of its shards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from quantpipe.checkpoint.index import shards_to_load
from quantpipe.checkpoint.names import INDEX, SHARD_GLOB
from quantpipe.checkpoint.safetensors import Tensor, load_header

from .errors import CheckpointLoadError

_COPY_AGAIN = "copy or quantize it again; if it is not part of the checkpoint, delete it"


def read_stored(model_dir: str) -> Mapping[str, list[Tensor]]:
    """All tensors that vLLM will read, by name; more than one entry is a duplicate.

    vLLM reads every shard of the directory itself, or, if there is an index of the name that Hugging Face
    uses, the existing files that the index names (vLLM: filter_duplicate_safetensors_files).

    Raises:
        CheckpointLoadError: no file, or one that is truncated or not a safetensors file.
    """
    directory = Path(model_dir)
    stored: dict[str, list[Tensor]] = {}
    for shard in _shards(directory):
        header = load_header(directory / shard, shard)
        if header.defect is not None:
            raise CheckpointLoadError(
                f"not a whole safetensors file: it {header.defect}",
                where=str(directory / shard),
                hint=_COPY_AGAIN,
                details=header.problems[1:],
            )
        for tensor in header.tensors:
            stored.setdefault(tensor.name, []).append(tensor)
    return stored


def _shards(directory: Path) -> list[str]:
    try:
        shards = [shard for shard in shards_to_load(directory) if (directory / shard).exists()]
    except ValueError as error:
        raise CheckpointLoadError(
            f"the index {error}", where=str(directory / INDEX), hint=_COPY_AGAIN
        ) from error
    if not shards:
        raise CheckpointLoadError(
            f"no {SHARD_GLOB} to load",
            where=str(directory),
            hint=f"if {INDEX} names other files, it is left over from the unquantized model: delete it",
        )
    return shards
