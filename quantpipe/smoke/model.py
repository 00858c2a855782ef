"""What of a model's config.json decides whether a serve profile fits it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantpipe.checkpoint.dims import Dims, read_dims
from quantpipe.checkpoint.names import CONFIG, SHARD_GLOB
from quantpipe.checkpoint.strict_json import load_object


@dataclass(frozen=True)
class ModelFigures:
    """Figures of a model, 0 where nobody says.

    Attributes:
        dims: its dimensions; None where config.json gives none that can be used.
        native_length: tokens that the model was made for, without YaRN.
        rope: the rope parameters of config.json; empty without any scaling.
        weight_bytes: of the checkpoint, in all.
        w8a8: whether it is quantized that way; None where nobody says.
    """

    dims: Dims | None = None
    native_length: int = 0
    rope: dict[str, Any] = field(default_factory=dict)
    weight_bytes: int = 0
    w8a8: bool | None = None

    @classmethod
    def of(cls, config: dict[str, Any], weight_bytes: int = 0) -> ModelFigures:
        """From a config.json, and the bytes of the shards beside it."""
        quantize = config.get("quantize")
        return cls(
            dims=_dims(config),
            native_length=read_dims(config, partial=True).max_positions,
            rope=_rope(config),
            weight_bytes=weight_bytes,
            w8a8=quantize.lower().startswith("w8a8") if isinstance(quantize, str) else None,
        )


def read_model(directory: Path) -> ModelFigures | None:
    """The figures of a checkpoint directory; None where its config.json cannot be read."""
    try:
        config = load_object(directory / CONFIG)
        size = sum(path.stat().st_size for path in directory.glob(SHARD_GLOB))
    except (OSError, ValueError):
        return None
    return ModelFigures.of(config, size)


def _dims(config: dict[str, Any]) -> Dims | None:
    try:
        return read_dims(config)
    except ValueError:
        return None


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    for key in ("rope_scaling", "rope_parameters"):
        value = config.get(key)
        if isinstance(value, dict):
            return value
    return {}
