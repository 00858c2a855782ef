"""What a finished part of the work leaves on disk, so that a later run continues after it.

The work is divided into units: the embedding, each decoder layer, the head (final norm and lm_head). The
order of a unit's writes, each flushed before the next:

1. its shards in the output directory;
2. the boundary: the hidden states that enter the next unit, exactly as they are in memory;
3. `unit-NNNNN.json`, which names both with sizes and hashes. This write is what finishes the unit.
4. The boundary of the unit before is removed.

Killed before 3, the unit is done again and its files are replaced by equal ones; killed after it, nothing
of it is done again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from quantpipe import durable
from quantpipe.checkpoint.names import SHARD_SUFFIX, shard_name
from quantpipe.quantize.worker.streaming import shards
from quantpipe.quantize.worker.streaming.shards import Shard
from quantpipe.quantize.worker.streaming.weights import Weights, read_header

IDENTITY = "identity.json"


@dataclass(frozen=True)
class Unit:
    """A finished unit.

    Attributes:
        index: 0 is the embedding, 1 to L the layers, L + 1 the head.
        shards: its files.
        description: its entries of quant_model_description.json, in order.
        saver: the saver's own figures after it (model type and optional files), for the description's end.
        boundary: the file of hidden states after it; None after the head.
    """

    index: int
    shards: tuple[Shard, ...]
    description: dict[str, Any]
    saver: dict[str, Any]
    boundary: Shard | None

    @classmethod
    def from_json(cls, value: Any) -> Unit:
        """Read what `dataclasses.asdict` made."""
        boundary = value["boundary"]
        return cls(
            int(value["index"]),
            tuple(Shard(**shard) for shard in value["shards"]),
            dict(value["description"]),
            dict(value["saver"]),
            None if boundary is None else Shard(**boundary),
        )


def final_names(units: list[Unit]) -> dict[str, str]:
    """The names that vLLM reads, by the names that the shards were written with."""
    names = [shard.name for unit in units for shard in unit.shards]
    return {name: shard_name(number, len(names)) for number, name in enumerate(names, 1)}


class State:
    """The state directory of one quantization.

    Args:
        folder: the state directory; created where it is missing.
        output: the directory of the shards.
    """

    def __init__(self, folder: Path, output: Path) -> None:
        self._folder, self._output = folder, output
        self.units: list[Unit] = []

    def open(self, identity: Mapping[str, str]) -> tuple[list[str], int]:
        """Continue from what is there, if it was made from the same inputs.

        Args:
            identity: all that decides the bits of the output, by name.

        Returns:
            What differs, one line each, and how many units were discarded for it. Both empty where
            nothing was there or nothing differs.
        """
        found = self._read_identity()
        differences = _differences(found, identity) if found is not None else []
        discarded = 0
        if found is None or differences:
            discarded = len(list(self._folder.glob("unit-*.json")))
            for folder in (self._folder, self._output):
                shutil.rmtree(folder, ignore_errors=True)
        for folder in (self._folder, self._output):
            folder.mkdir(parents=True, exist_ok=True)
            for stray in folder.rglob(f"{durable.TEMPORARY_PREFIX}*"):
                stray.unlink()
        if found is None or differences:
            durable.write_json(self._folder / IDENTITY, dict(identity))
        self.units = self._read_units()
        return differences, discarded

    def _read_identity(self) -> dict[str, str] | None:
        try:
            value = json.loads((self._folder / IDENTITY).read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def _read_units(self) -> list[Unit]:
        """The finished units from the first one on, as far as their files are complete."""
        units: list[Unit] = []
        while True:
            try:
                units.append(Unit.from_json(json.loads(self._unit_path(len(units)).read_text("utf-8"))))
            except (OSError, ValueError, KeyError, TypeError):
                break
        final = final_names(units)  # a run that was killed at the very end has renamed them already
        for unit in units:
            here = (self._exists(shard, final[shard.name]) for shard in unit.shards)
            if not all(here):
                del units[unit.index :]
                break
        while units and units[-1].boundary is not None and not self._boundary_is_complete(units[-1]):
            units.pop()
        return units

    def _exists(self, shard: Shard, final: str) -> bool:
        return any(_has_size(self._output / name, shard.size) for name in (shard.name, final))

    def _boundary_is_complete(self, unit: Unit) -> bool:
        boundary = unit.boundary
        if boundary is None or not _has_size(self._folder / boundary.name, boundary.size):
            return False
        return shards.hash_file(self._folder / boundary.name) == boundary.sha256

    def _unit_path(self, index: int) -> Path:
        return self._folder / f"unit-{index:05d}.json"

    def commit(
        self,
        written: list[Shard],
        description: dict[str, Any],
        saver: dict[str, Any],
        hidden: Mapping[str, torch.Tensor] | None,
    ) -> None:
        """Finish a unit whose shards are on disk already.

        Args:
            hidden: hidden states after it, by role and prompt; None after the last unit.
        """
        index = len(self.units)
        boundary = None
        if hidden is not None:
            boundary = shards.write_shard(self._folder / f"boundary-{index:05d}{SHARD_SUFFIX}", hidden)
        unit = Unit(index, tuple(written), description, saver, boundary)
        durable.write_json(self._unit_path(index), asdict(unit))
        before = self.units[-1].boundary if self.units else None
        if before is not None:
            (self._folder / before.name).unlink(missing_ok=True)
        self.units.append(unit)

    def boundary(self) -> dict[str, torch.Tensor]:
        """The hidden states after the last finished unit."""
        boundary = self.units[-1].boundary
        if boundary is None:
            return {}
        path = self._folder / boundary.name
        return Weights(read_header(path)).read_prefix("")


def _differences(found: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    names = sorted({*found, *wanted})
    return [
        f"{name}: {found.get(name, 'nothing')} then, {wanted.get(name, 'nothing')} now"
        for name in names
        if found.get(name) != wanted.get(name)
    ]


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
