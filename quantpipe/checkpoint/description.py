"""`quant_model_description.json`: by which scheme each tensor was quantized, as msmodelslim writes it.

    {"<tensor name>": "<TYPE>", ..., "model_quant_type": "W8A8", "version": "1.0.0",
     "optional": {"quarot": {"rotation_map": {"global_rotation": "optional/quarot.safetensors"}}}}

Only keys that end in `.weight` choose a scheme. V0 may leave null keys, V1 none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantpipe.checkpoint.strict_json import read_object
from quantpipe.checkpoint.tensors import FLOAT

_SETTINGS = frozenset({"model_quant_type", "version", "kv_cache_type", "fa_quant_type", "group_size"})


@dataclass(frozen=True)
class Description:
    """What the description says.

    Attributes:
        types: tensor name to type.
        settings: everything else, as it is.
        nulls: keys whose value is null.
        strange: tensor names whose value is not a string.
    """

    types: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    nulls: tuple[str, ...] = ()
    strange: tuple[str, ...] = ()

    def type_of(self, module: str) -> str | None:
        """The type of a linear, embedding or norm; None where its `.weight` is not described."""
        return self.types.get(f"{module}.weight")

    @property
    def rotation_path(self) -> str | None:
        """The path of global_rotation, relative to the checkpoint; None where no rotation is described."""
        value: Any = self.settings.get("optional")
        for key in ("quarot", "rotation_map", "global_rotation"):
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, str) else None

    @property
    def quantized(self) -> bool:
        """Whether anything is quantized at all."""
        return any(kind != FLOAT for kind in self.types.values())


def read_description(path: Path) -> Description:
    """The description in a file.

    Raises:
        ValueError: no such file, or it is not a JSON object.
        OSError: the file cannot be read now.
    """
    return parse_description(read_object(path))


def parse_description(value: dict[str, Any]) -> Description:
    """The description in a JSON object."""
    types: dict[str, str] = {}
    settings: dict[str, Any] = {}
    nulls: list[str] = []
    strange: list[str] = []
    for key, item in value.items():
        if item is None:
            nulls.append(key)
        elif "." not in key or key in _SETTINGS:
            settings[key] = item
        elif isinstance(item, str):
            types[key] = item
        else:
            strange.append(key)
    return Description(types, settings, tuple(nulls), tuple(strange))
