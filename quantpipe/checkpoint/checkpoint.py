"""A checkpoint directory as it is on disk: headers, indexes, description and config, read once."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from quantpipe.checkpoint.description import Description, read_description
from quantpipe.checkpoint.dims import Dims, read_dims
from quantpipe.checkpoint.index import Index, read_index
from quantpipe.checkpoint.names import CONFIG, DESCRIPTION, INDEX_SUFFIX, SHARD_SUFFIX
from quantpipe.checkpoint.safetensors import Header, Tensor, read_header
from quantpipe.checkpoint.strict_json import read_object


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint directory.

    Attributes:
        names: everything in the directory itself, not in its folders.
        headers: one for each `*.safetensors` in it, in the order of their names: what vLLM would load.
        description, config, dims: None where the file is absent or wrong; then the problem says why.
        dims: the dimensions that config.json gives.
    """

    path: Path
    names: tuple[str, ...] = ()
    headers: tuple[Header, ...] = ()
    indexes: tuple[Index, ...] = ()
    description: Description | None = None
    description_problem: str = "is missing"
    config: dict[str, Any] | None = None
    config_problem: str = "is missing"
    dims: Dims | None = None

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name; of one that is in several shards the last, which vLLM would keep."""
        return {tensor.name: tensor for header in self.headers for tensor in header.tensors}

    @cached_property
    def repeated(self) -> dict[str, list[str]]:
        """Tensors that are in several shards, with the shards."""
        count = Counter(tensor.name for header in self.headers for tensor in header.tensors)
        names = {name for name, number in count.items() if number > 1}
        found: dict[str, list[str]] = {}
        for header in self.headers if names else ():
            for tensor in header.tensors:
                if tensor.name in names:
                    found.setdefault(tensor.name, []).append(tensor.shard)
        return found

    @property
    def quantized(self) -> bool:
        """Whether there is a description that quantizes anything."""
        return self.description is not None and self.description.quantized

    @property
    def total_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(header.size for header in self.headers)


def open_checkpoint(path: Path, *, jobs: int = 2) -> Checkpoint:
    """Read all headers and JSON files of a directory; no tensor.

    Raises:
        OSError: it cannot be listed, or a file in it cannot be read now; see `strict_json.ABSENT`.
    """
    names = tuple(sorted(entry.name for entry in path.iterdir()))
    shards = [name for name in names if name.endswith(SHARD_SUFFIX)]
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        headers = tuple(pool.map(lambda name: read_header(path / name, name), shards))
    indexes = tuple(read_index(path / name) for name in names if name.endswith(INDEX_SUFFIX))
    description, description_problem = None, "is missing"
    if DESCRIPTION in names:
        try:
            description, description_problem = read_description(path / DESCRIPTION), ""
        except ValueError as error:
            description_problem = str(error)
    config, dims, config_problem = _read_config(path, names)
    return Checkpoint(
        path,
        names,
        headers,
        indexes,
        description,
        description_problem,
        config,
        config_problem,
        dims,
    )


def _read_config(path: Path, names: tuple[str, ...]) -> tuple[dict[str, Any] | None, Dims | None, str]:
    if CONFIG not in names:
        return None, None, "is missing"
    config = None
    try:
        config = read_object(path / CONFIG)
        return config, read_dims(config), ""
    except ValueError as error:
        return config, None, str(error)
