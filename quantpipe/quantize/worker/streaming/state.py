"""What a finished part of the work leaves on disk, so that a later run continues after it.

The work is divided into units: the embedding, each decoder layer, the head (final norm and lm_head). The
order of a unit's writes, each flushed before the next:

1. its shards in the output directory;
2. the boundary: the hidden states that enter the next unit, exactly as they are in memory;
3. `unit-NNNNN.json`, which names both with sizes and hashes. This write is what finishes the unit.
4. The boundary of the unit before is removed, except for that of every eighth unit.

Killed before 3, the unit is done again and its files are replaced by equal ones; killed after it, nothing
of it is done again.

Who continues hashes the shards of all finished units, since a bit may have flipped meanwhile. Units whose
shards differ are done again, from the last boundary before them: that of every eighth unit stays until the
end. The units after them stay as they are if the repeated ones have their old hashes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from quantpipe import durable
from quantpipe.checkpoint.names import SHARD_SUFFIX, shard_name
from quantpipe.digest import hash_file
from quantpipe.quantize.worker.protocol import KEPT_EVERY
from quantpipe.quantize.worker.streaming import shards
from quantpipe.quantize.worker.streaming.shards import Shard
from quantpipe.quantize.worker.streaming.weights import Weights, read_header

IDENTITY = "identity.json"

_HASHERS = 4
"""Files hashed at the same time: one core hashes slower than storage reads."""


@dataclass(frozen=True)
class Unit:
    """A finished unit.

    Attributes:
        index: 0 is the embedding, 1 to L the layers, L + 1 the head.
        shards: its files.
        description: its entries of quant_model_description.json, in order.
        saver: the saver's own figures after it (model type and optional files), for the description's end.
        boundary: the file of hidden states after it; None after the head.
        quality: its figures (quality/report.py); None where the run does not measure.
    """

    index: int
    shards: tuple[Shard, ...]
    description: dict[str, Any]
    saver: dict[str, Any]
    boundary: Shard | None
    quality: dict[str, Any] | None = None

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
            value.get("quality"),
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

    Attributes:
        units: the finished units from the first one on, up to where the work continues.
        damaged: the units that are being done again since a shard of theirs has changed.
    """

    def __init__(self, folder: Path, output: Path) -> None:
        self._folder, self._output = folder, output
        self.units: list[Unit] = []
        self.damaged: list[int] = []
        self._later: list[Unit] = []

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
        self.damaged = self._find_damaged()
        if self.damaged:
            start = self._restart_before(self.damaged[0])
            self.units, self._later = self.units[:start], self.units[start:]
        return differences, discarded

    def _read_identity(self) -> dict[str, str] | None:
        try:
            value = json.loads((self._folder / IDENTITY).read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def _read_units(self) -> list[Unit]:
        """The finished units from the first one on, up to the last one after which the work can continue."""
        units: list[Unit] = []
        while True:
            try:
                units.append(Unit.from_json(json.loads(self._unit_path(len(units)).read_text("utf-8"))))
            except (OSError, ValueError, KeyError, TypeError):
                break
        while units and units[-1].boundary is not None and not self._boundary_is_complete(units[-1]):
            units.pop()
        return units

    def _find_damaged(self) -> list[int]:
        """The units with a shard that is not what was written."""
        final = final_names(self.units)  # a run that was killed at the very end has renamed them already

        def intact(shard: Shard) -> bool:
            places = (self._output / name for name in (shard.name, final[shard.name]))
            return any(_has_size(place, shard.size) and hash_file(place) == shard.sha256 for place in places)

        with ThreadPoolExecutor(_HASHERS) as pool:
            found = pool.map(lambda unit: all(map(intact, unit.shards)), self.units)
            return [unit.index for unit, right in zip(self.units, found, strict=True) if not right]

    def _restart_before(self, damaged: int) -> int:
        """The unit from which on everything can be done again, at most `damaged`."""
        for index in range(damaged, 0, -1):
            if self._boundary_is_complete(self.units[index - 1]):
                return index
        return 0

    @property
    def kept(self) -> int:
        """How many finished units are not done again."""
        goal = self.damaged[-1] + 1 if self.damaged else 0
        return len(self.units) + sum(unit.index >= goal for unit in self._later)

    @property
    def repaired(self) -> bool:
        """Whether all damaged units have been done again, so that `rejoin` is due."""
        return bool(self.damaged) and len(self.units) > self.damaged[-1]

    def rejoin(self) -> None:
        """Go on after the last finished unit: those after the repeated ones are what they were."""
        before = self.units[-1]
        self.units += [unit for unit in self._later if unit.index > before.index]
        self.damaged, self._later = [], []
        if self.units[-1] is not before:
            self._drop_boundary(before)

    def _boundary_is_complete(self, unit: Unit) -> bool:
        boundary = unit.boundary
        if boundary is None or not _has_size(self._folder / boundary.name, boundary.size):
            return False
        return hash_file(self._folder / boundary.name) == boundary.sha256

    def _unit_path(self, index: int) -> Path:
        return self._folder / f"unit-{index:05d}.json"

    def commit(
        self,
        written: list[Shard],
        description: dict[str, Any],
        saver: dict[str, Any],
        hidden: Mapping[str, torch.Tensor] | None,
        quality: dict[str, Any] | None = None,
    ) -> None:
        """Finish a unit whose shards are on disk already.

        Args:
            hidden: hidden states after it, by role and prompt; None after the last unit.
            quality: its figures.
        """
        index = len(self.units)
        boundary = None
        if hidden is not None:
            boundary = shards.write_shard(self._folder / f"boundary-{index:05d}{SHARD_SUFFIX}", hidden)
        unit = Unit(index, tuple(written), description, saver, boundary, quality)
        if any(old.index == index and old.shards != unit.shards for old in self._later):
            self._forget_later(index)
        durable.write_json(self._unit_path(index), asdict(unit))
        if self.units:
            self._drop_boundary(self.units[-1])
        self.units.append(unit)

    def _forget_later(self, index: int) -> None:
        """Unit `index` has come out differently: what was made of its output goes, the last one first."""
        for unit in reversed(self._later):
            if unit.index > index:
                self._unit_path(unit.index).unlink(missing_ok=True)
        durable.fsync_directory(self._folder)
        self._later = []

    def _drop_boundary(self, unit: Unit) -> None:
        """Remove the boundary after a unit that is no longer the last, but for every eighth."""
        if unit.boundary is not None and (unit.index == 0 or unit.index % KEPT_EVERY):
            (self._folder / unit.boundary.name).unlink(missing_ok=True)

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
