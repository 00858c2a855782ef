"""The model that a checkpoint describes: its modules, their types, and the tensors that they have to have."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from quantpipe.checkpoint.checkpoint import Checkpoint
from quantpipe.checkpoint.description import Description
from quantpipe.checkpoint.dims import Dims
from quantpipe.checkpoint.modules import KINDS, Module, governing_type, modules, specs
from quantpipe.checkpoint.safetensors import Tensor
from quantpipe.checkpoint.seen import seen_dims
from quantpipe.checkpoint.support import supported_types
from quantpipe.checkpoint.tensors import FLOAT, STATIC, Spec


@dataclass(frozen=True)
class Model:
    """A checkpoint read by its description and its config.json, for one version of vllm-ascend.

    Attributes:
        config_dims: the dimensions that config.json gives.
        target: the vllm-ascend version.
    """

    checkpoint: Checkpoint
    description: Description
    config_dims: Dims
    target: str

    @property
    def path(self) -> Path:
        """The checkpoint's directory."""
        return self.checkpoint.path

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name."""
        return self.checkpoint.tensors

    @cached_property
    def seen(self) -> dict[str, int]:
        """The dimensions in which the tensors differ from config.json."""
        return seen_dims(self.config_dims, self.tensors, self.description.types)

    @cached_property
    def dims(self) -> Dims:
        """The dimensions that the tensors have, where they agree on others than config.json."""
        seen: dict[str, Any] = dict(self.seen)
        return replace(self.config_dims, **seen)

    @cached_property
    def modules(self) -> dict[str, Module]:
        """The modules that the model has to have, by name."""
        return {module.name: module for module in modules(self.dims)}

    @cached_property
    def types(self) -> dict[str, str]:
        """The type of every module that can be judged by one: none that A3 to A5 or B3 complain about."""
        supported = {kind: supported_types(self.target, kind) for kind in KINDS}
        found = {}
        for module in self.modules.values():
            kind = governing_type(module, self.description)
            own = self.description.type_of(module.name) or kind
            if kind is None or own != kind or module.group in self.disputed:
                continue
            if kind in supported[module.kind]:
                found[module.name] = kind
        return found

    @cached_property
    def static_scales(self) -> bool:
        """Whether static linears keep their weight_scale, as V0's do: what holds for most of them."""
        static = [name for name, kind in self.types.items() if kind == STATIC]
        known = self.tensors.keys() | self.description.types.keys()
        kept = sum(f"{name}.weight_scale" in known for name in static)
        return 2 * kept > len(static)

    def specs_of(self, name: str) -> dict[str, Spec] | None:
        """The tensors that a module has to have, by suffix; None where it cannot be judged."""
        kind = self.types.get(name)
        if kind is None:
            return None
        return specs(self.modules[name], kind, self.dims.dtype, static_scales=self.static_scales)

    @cached_property
    def expected(self) -> dict[str, Spec]:
        """Every required and optional tensor, with its specification."""
        return {
            f"{name}.{suffix}": spec
            for name in self.types
            for suffix, spec in (self.specs_of(name) or {}).items()
        }

    @cached_property
    def group_types(self) -> dict[str, dict[str, str]]:
        """For each fused module the types of its parts; of the experts only expert 0 is looked at."""
        groups: dict[str, dict[str, str]] = defaultdict(dict)
        for module in self.modules.values():
            kind = self.description.type_of(module.name)
            if module.group and looked_up(module) and kind is not None:
                groups[module.group][module.name] = kind
        return groups

    @cached_property
    def disputed(self) -> set[str]:
        """Fused modules whose parts differ in type (A4): no expectation can be drawn from them."""
        return {group for group, types in self.group_types.items() if len(set(types.values())) > 1}

    def module_types(self) -> Counter[str]:
        """How many modules there are of each type."""
        return Counter(kind for kind in self.types.values() if kind != FLOAT)


def looked_up(module: Module) -> bool:
    """Whether vllm-ascend looks for the module's key by name: of the experts only the first counts."""
    return module.kind != "norm" and module.expert <= 0


def described_model(checkpoint: Checkpoint, target: str) -> Model | None:
    """The model of a checkpoint; None where nothing is quantized, or no config.json can be used.

    Args:
        target: the vllm-ascend version that has to load it.
    """
    description, dims = checkpoint.description, checkpoint.dims
    if description is None or not description.quantized or dims is None:
        return None
    return Model(checkpoint, description, dims, target)
