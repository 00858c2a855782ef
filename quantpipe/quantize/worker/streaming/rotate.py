"""Rotation: msmodelslim's processor, with its bits, without the memory that it takes for every matrix anew.

`factored.py` has the quicker product for `exact: false`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from msmodelslim.processor.quarot.offline_quarot.quarot import QuaRotProcessor
from msmodelslim.processor.quarot.offline_quarot.quarot_interface import RotSide
from torch import nn

from quantpipe.quantize.worker.streaming.factored import Factored


class Scratch:
    """Memory for results in between, used again for every matrix of the same shape."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], torch.Tensor] = {}

    def like(self, weight: torch.Tensor, slot: int) -> torch.Tensor:
        """float32 of the weight's shape and device; the same memory for the same slot."""
        key = slot, weight.shape, weight.device
        if key not in self._kept:
            self._kept[key] = torch.empty(weight.shape, dtype=torch.float32, device=weight.device)
        return self._kept[key]

    def clear(self) -> None:
        """Give all of it back."""
        self._kept.clear()


class LeanQuaRotProcessor(QuaRotProcessor):  # type: ignore[misc]
    """msmodelslim's processor; the arithmetic is that of its fuse_ln_linear and rotate_linear."""

    def __init__(self, model: nn.Module, config: Any, adapter: Any) -> None:
        super().__init__(model, config, adapter)
        self.scratch = Scratch()

    def preprocess(self, request: Any) -> None:
        """See QuaRotProcessor."""
        super().preprocess(request)
        self.scratch.clear()

    def post_run(self) -> None:
        """See QuaRotProcessor."""
        super().post_run()
        self.scratch.clear()

    def _fuse_norm(self, fused_map: Mapping[Any, Any]) -> None:
        for norm_name, linear_names in fused_map.items():
            norm = self._module(norm_name)
            linears = [self._module(name) for name in linear_names]
            if norm is None or hasattr(norm, "bias") or any(linear is None for linear in linears):
                super()._fuse_norm({norm_name: linear_names})
                continue
            scale = norm.weight.data.float()
            for linear in linears:
                weight = linear.weight.data
                weight.copy_(self.scratch.like(weight, 0).copy_(weight).mul_(scale))
            norm.weight.data.fill_(1.0)

    def _module(self, name: Any) -> Any:
        return self.model.get_submodule(name) if isinstance(name, str) else None

    def _rotate(self, commands: Sequence[Any]) -> None:
        for command in commands:
            weight = self._plain_weight(command)
            if weight is None:
                super()._rotate([command])
                continue
            given, turned = self.scratch.like(weight, 0).copy_(weight), self.scratch.like(weight, 1)
            if command.side == RotSide.RIGHT:
                torch.matmul(given, command.rot, out=turned)
            else:
                torch.matmul(command.rot.T, given, out=turned)
            weight.copy_(turned)

    def _plain_weight(self, command: Any) -> torch.Tensor | None:
        """The weight that the command turns, if that is one product with a matrix of its size."""
        linear, rot = self.model.get_submodule(command.target), command.rot
        if not isinstance(linear, nn.Linear) or linear.bias is not None or not isinstance(rot, torch.Tensor):
            return None
        weight: torch.Tensor = linear.weight.data
        size = weight.shape[1] if command.side == RotSide.RIGHT else weight.shape[0]
        same = rot.shape[0] == size and rot.device == weight.device and rot.dtype == torch.float32
        return weight if same else None


class QuickQuaRotProcessor(LeanQuaRotProcessor):
    """For `exact: false`: matrices that are turned alike go through the rotation together, by its factors."""

    def __init__(self, model: nn.Module, config: Any, adapter: Any) -> None:
        super().__init__(model, config, adapter)
        self._factored: dict[int, Factored | None] = {}

    def _rotate(self, commands: Sequence[Any]) -> None:
        for kind, alike in itertools.groupby(commands, self._kind):
            group = list(alike)
            # One alone, as lm_head is, would be turned densely too, to hold the two beside each other.
            factored = None if kind is None or len(group) == 1 else self._factors(group[0].rot)
            if factored is None:
                super()._rotate(group)
                continue
            weights = [self.model.get_submodule(command.target).weight.data for command in group]
            factored.turn(weights, left=group[0].side == RotSide.LEFT)

    def _kind(self, command: Any) -> Any:
        """What commands have in common that can go together; None for one that goes alone."""
        weight = self._plain_weight(command)
        return None if weight is None else (id(command.rot), command.side, weight.shape, weight.dtype)

    def _factors(self, rot: torch.Tensor) -> Factored | None:
        if id(rot) not in self._factored:
            self._factored[id(rot)] = Factored.of(rot)
        return self._factored[id(rot)]
