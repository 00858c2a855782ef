"""Rotation: msmodelslim's processor, with the same bits, without new memory for every matrix.

`factored.py` has the faster product for `exact: false`.
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
from quantpipe.quantize.worker.streaming.memory import Buffers


class LeanQuaRotProcessor(QuaRotProcessor):  # type: ignore[misc]
    """msmodelslim's processor; the arithmetic is that of its fuse_ln_linear and rotate_linear."""

    def __init__(self, model: nn.Module, config: Any, adapter: Any) -> None:
        super().__init__(model, config, adapter)
        self.buffers = Buffers()

    def preprocess(self, request: Any) -> None:
        """See QuaRotProcessor."""
        super().preprocess(request)
        self.buffers.clear()

    def post_run(self) -> None:
        """See QuaRotProcessor."""
        super().post_run()
        self.buffers.clear()

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
                weight.copy_(self._buffer("given", weight).copy_(weight).mul_(scale))
            norm.weight.data.fill_(1.0)

    def _module(self, name: Any) -> Any:
        return self.model.get_submodule(name) if isinstance(name, str) else None

    def _rotate(self, commands: Sequence[Any]) -> None:
        for command in commands:
            weight = self._plain_weight(command)
            if weight is None:
                super()._rotate([command])
                continue
            given, rotated = self._buffer("given", weight).copy_(weight), self._buffer("rotated", weight)
            if command.side == RotSide.RIGHT:
                torch.matmul(given, command.rot, out=rotated)
            else:
                torch.matmul(command.rot.T, given, out=rotated)
            weight.copy_(rotated)

    def _buffer(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """float32 of the weight's shape, on its device."""
        return self.buffers.take(name, weight.shape, device=weight.device)

    def _plain_weight(self, command: Any) -> torch.Tensor | None:
        """The weight that the command rotates, if that is one product with a matrix of its size."""
        linear, rot = self.model.get_submodule(command.target), command.rot
        if not isinstance(linear, nn.Linear) or not isinstance(rot, torch.Tensor):
            return None
        if linear.bias is not None and command.side == RotSide.LEFT:  # the bias is rotated as well
            return None
        weight: torch.Tensor = linear.weight.data
        size = weight.shape[1] if command.side == RotSide.RIGHT else weight.shape[0]
        same = rot.shape[0] == size and rot.device == weight.device and rot.dtype == torch.float32
        return weight if same else None


class QuickQuaRotProcessor(LeanQuaRotProcessor):
    """For `exact: false`: matrices with the same rotation are rotated together, by its factors."""

    def __init__(self, model: nn.Module, config: Any, adapter: Any) -> None:
        super().__init__(model, config, adapter)
        self._factored: dict[int, Factored | None] = {}

    def _rotate(self, commands: Sequence[Any]) -> None:
        for kind, alike in itertools.groupby(commands, self._kind):
            group = list(alike)
            # A single one, such as lm_head, would be rotated densely too, to compare the two results.
            factored = None if kind is None or len(group) == 1 else self._factors(group[0].rot)
            if factored is None:
                super()._rotate(group)
                continue
            weights = [self.model.get_submodule(command.target).weight.data for command in group]
            factored.rotate(weights, left=group[0].side == RotSide.LEFT)

    def _kind(self, command: Any) -> Any:
        """What commands have in common that can go together; None for one that goes alone."""
        weight = self._plain_weight(command)
        return None if weight is None else (id(command.rot), command.side, weight.shape, weight.dtype)

    def _factors(self, rot: torch.Tensor) -> Factored | None:
        if id(rot) not in self._factored:
            self._factored[id(rot)] = Factored.of(rot)
        return self._factored[id(rot)]
