"""Quicker arithmetic for `exact: false`: the same values up to the order of sums.

* A random Hadamard matrix is a matrix of signs times a Kronecker product of small ones, so a rotation is two
  small products instead of one of full size: n (a + b) multiply-adds per row instead of n n, with n = a b.
* The search for alpha and beta looks at a part of the tokens first and drops what is clearly worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from msmodelslim.processor.quarot.offline_quarot.quarot import QuaRotProcessor
from msmodelslim.processor.quarot.offline_quarot.quarot_interface import RotSide
from torch import nn

from quantpipe.quantize.worker.streaming.smooth import LeanFlexSmoothProcessor, Search, rounded


class Factors:
    """A rotation as diag(signs) (A kron B), if it is one.

    Attributes:
        signs: [n], +1 or -1.
        left, right: A [a, a] and B [b, b], float32.
    """

    def __init__(self, signs: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
        self.signs, self.left, self.right = signs, left, right

    @classmethod
    def of(cls, rot: torch.Tensor) -> Factors | None:
        """The factors of a matrix with the smallest a + b; None where it has none."""
        size = rot.shape[0]
        signs = torch.sign(rot[:, 0])
        plain = signs.unsqueeze(1) * rot
        for b in sorted(range(2, size), key=lambda b: b + size / b):
            if size % b == 0 and plain[0, 0] != 0:
                right, left = plain[:b, :b] / plain[0, 0], plain[::b, ::b].contiguous()
                if torch.allclose(torch.kron(left, right), plain, rtol=1e-6, atol=1e-7):
                    return cls(signs, left, right.contiguous())
        return None

    def columns(self, weight: torch.Tensor) -> torch.Tensor:
        """weight @ rot, for float32 [rows, n]."""
        a, b = self.left.shape[0], self.right.shape[0]
        turned = (weight * self.signs).view(-1, b) @ self.right
        return torch.matmul(self.left.T, turned.view(-1, a, b)).reshape(weight.shape)

    def rows(self, weight: torch.Tensor) -> torch.Tensor:
        """rot.T @ weight, for float32 [n, columns]."""
        a, b = self.left.shape[0], self.right.shape[0]
        signed = (weight * self.signs.unsqueeze(1)).view(a, b, -1)
        return (self.left.T @ torch.matmul(self.right.T, signed).view(a, -1)).view(weight.shape)


class QuickQuaRotProcessor(QuaRotProcessor):  # type: ignore[misc]
    """msmodelslim's processor; matrices of full size are turned by their factors."""

    def _rotate(self, rotate_commands: Any) -> None:
        known: dict[int, Factors | None] = getattr(self, "_known_factors", {})
        self._known_factors = known
        left_over = []
        for command in rotate_commands:
            module, rot = self.model.get_submodule(command.target), command.rot
            if id(rot) not in known:
                known[id(rot)] = Factors.of(rot)
            factors, side = known[id(rot)], 1 if command.side == RotSide.RIGHT else 0
            if factors is None or module.weight.shape[side] != rot.shape[0] or _has_bias(module):
                left_over.append(command)
                continue
            turn = factors.columns if side else factors.rows
            module.weight.data = turn(module.weight.data.float()).to(module.weight.dtype)
        super()._rotate(left_over)


def _has_bias(module: nn.Module) -> bool:
    return getattr(module, "bias", None) is not None


class QuickSearch(Search):
    """Evaluates in full only the pairs that are among the best on a part of the tokens."""

    SHARE, MARGIN, FEWEST = 4, 1.015, 256

    def screen(self, pairs: Sequence[tuple[Any, Any]]) -> None:
        """Give pairs that are clearly worse an infinite error."""
        tokens = self.act.shape[0]
        if tokens < self.SHARE * self.FEWEST:
            return
        part = slice(None, None, self.SHARE)
        act, product = self.act[part].contiguous(), self.product[part]
        seen = {}
        for alpha, beta in pairs:
            scale = self.act_max**alpha * self.weight_max ** (-beta)
            found = self.multiply(rounded(act / scale), rounded(self.weights * scale))
            seen[float(alpha), float(beta)] = float(torch.linalg.vector_norm(found.sub_(product)))
        limit = self.MARGIN * min(seen.values())
        for pair, error in seen.items():
            if error > limit:
                self.known.setdefault(pair, float("inf"))

    def multiply(self, act: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """In float32 where the processor has no bf16 products: there they are ten times as slow."""
        if torch.cpu._is_avx512_bf16_supported() or act.device.type != "cpu":
            return super().multiply(act, weights)
        return torch.matmul(act.float(), weights.float().T).to(act.dtype)


class QuickFlexSmoothProcessor(LeanFlexSmoothProcessor):
    """msmodelslim's m6, with the quicker search."""

    search = QuickSearch
