"""Index files: `*.safetensors.index.json`, which map tensors to shards.

vLLM reads only the one named `model.safetensors.index.json`; msmodelslim writes others, which vLLM ignores.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from quantpipe.checkpoint.names import INDEX, SHARD_GLOB
from quantpipe.checkpoint.strict_json import ABSENT, load_object


@dataclass(frozen=True)
class Index:
    """One index.

    Attributes:
        file: its name.
        weight_map: tensor name to shard name; only entries that make sense.
        problems: what is wrong with the file itself.
    """

    file: str
    weight_map: dict[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def shards(self) -> set[str]:
        """The shards that it names."""
        return set(self.weight_map.values())


def shards_to_load(directory: Path) -> list[str]:
    """The shards of a model: those that its index names, or every shard there is where it has none.

    Sorted. A shard that the index names may be missing.

    Raises:
        ValueError: the index cannot be used; the text says why, without the file's name.
        OSError: the index cannot be read.
    """
    if not (directory / INDEX).is_file():
        return sorted(path.name for path in directory.glob(SHARD_GLOB))
    index = load_index(directory / INDEX)
    if index.problems:
        raise ValueError(index.problems[0])
    return sorted(index.shards)


def read_index(path: Path) -> Index:
    """The index in a file; whatever the file holds, problems are listed.

    Raises:
        OSError: the file cannot be read now; see `strict_json.ABSENT`.
    """
    try:
        return load_index(path)
    except OSError as error:
        if error.errno not in ABSENT:
            raise
        return Index(path.name, problems=(f"cannot be read: {error.strerror}",))


def load_index(path: Path) -> Index:
    """The index in a file, as `read_index`.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        return parse_index(path.name, load_object(path))
    except ValueError as error:
        return Index(path.name, problems=(str(error),))


def parse_index(file: str, value: dict[str, Any]) -> Index:
    """The index in a JSON object."""
    entries = value.get("weight_map")
    if not isinstance(entries, dict):
        return Index(file, problems=("has no weight_map",))
    weight_map: dict[str, str] = {}
    strange: list[str] = []
    for name, shard in entries.items():
        if isinstance(shard, str) and plain_name(shard):
            weight_map[name] = shard
        else:
            strange.append(str(shard)[:200])
    problems: tuple[str, ...] = ()
    if strange:
        problems = (f"has {len(strange)} shard names that are not file names, such as {strange[0]!r}",)
    return Index(file, weight_map, problems)


def plain_name(name: str) -> bool:
    """Whether it names a file in the same directory: no folders, no `..`, nothing invisible."""
    return bool(name) and PurePosixPath(name).name == name and name not in (".", "..") and name.isprintable()
