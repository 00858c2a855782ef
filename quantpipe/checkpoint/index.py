"""Index files: `*.safetensors.index.json`, which say in which shard a tensor lies.

vLLM reads only the one named `model.safetensors.index.json`; msmodelslim writes others, which vLLM ignores.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from quantpipe.checkpoint.strict_json import read_object


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


def read_index(path: Path) -> Index:
    """The index in a file; whatever the file holds, problems are listed and nothing is raised."""
    try:
        return parse_index(path.name, read_object(path))
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
        problems = (
            f"names {len(strange)} shards by something else than a file name, such as {strange[0]!r}",
        )
    return Index(file, weight_map, problems)


def plain_name(name: str) -> bool:
    """Whether it names a file in the same directory: no folders, no `..`, nothing invisible."""
    return bool(name) and PurePosixPath(name).name == name and name not in (".", "..") and name.isprintable()
