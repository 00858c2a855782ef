"""The result of a comparison with the BF16 source."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TypedDict

from quantpipe.checkpoint.modules import Module


class ErrorFigures(TypedDict):
    """Errors of several modules, each relative to the size of its source.

    Attributes:
        mean: over the modules.
        max: the largest.
    """

    mean: float
    max: float


class FidelityFigures(TypedDict):
    """The comparison with the BF16 source.

    Attributes:
        rotation: `described`, `estimated` (from the embeddings) or `none`.
        modules: how many were compared.
        left_out: how many have a type whose values cannot be reconstructed.
        by_kind: errors by the last part of the module's name.
        by_layer: errors by the number of the decoder layer.
    """

    rotation: str
    modules: int
    left_out: int
    by_kind: dict[str, ErrorFigures]
    by_layer: dict[str, ErrorFigures]


@dataclass(frozen=True)
class ModuleError:
    """How far a module is from its source: relative to the source's size, in all and in its worst row.

    Attributes:
        tensor: which of its tensors was compared: `weight` or `bias`.
    """

    module: Module
    error: float
    worst: float
    tensor: str = "weight"


@dataclass
class Fidelity:
    """The comparison with the source.

    Attributes:
        rotation: `described`, `estimated` (from the embeddings) or `none`.
        errors: one for each module that could be compared.
        absent: names that the source lacks or has in another shape.
        left_out: modules of types whose values cannot be reconstructed here.
    """

    rotation: str
    errors: list[ModuleError] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def to_json(self) -> FidelityFigures:
        """Mean and largest error per kind of module and per layer."""
        kinds: dict[str, list[float]] = defaultdict(list)
        layers: dict[int, list[float]] = defaultdict(list)
        compared = [item for item in self.errors if item.tensor == "weight"]
        for item in compared:
            kinds[item.module.leaf].append(item.error)
            if item.module.layer >= 0:
                layers[item.module.layer].append(item.error)
        return {
            "rotation": self.rotation,
            "modules": len(compared),
            "left_out": len(self.left_out),
            "by_kind": {kind: _summary(errors) for kind, errors in kinds.items()},
            "by_layer": {str(layer): _summary(errors) for layer, errors in sorted(layers.items())},
        }


def _summary(errors: list[float]) -> ErrorFigures:
    return {"mean": round(sum(errors) / len(errors), 6), "max": round(max(errors), 6)}
