"""Products with a random Hadamard matrix by its factors, with the bits of the dense product.

A Hadamard matrix of size n = s * s with random signs is diag(signs) (A kron B) / s, so that a product with
it is two with matrices of s rows: 2 s instead of n multiplications an element. Where s is a power of two
the terms of the dense product are exact and its sums nearly so, and both products round to the same bf16
value but for about one in 100,000: those whose distance from the midpoint of two bf16 numbers is within the
error of float32 sums. Even so few are too many: they route a few tokens to other experts and change the
result of the search for alpha and beta (docs/streaming.md).

So whatever is near a midpoint is taken from a dense product of a few rows and columns. Such a product must
have the bits of the whole one. It has with the libraries that we know; each kind of matrix is compared with
the whole product once, and is rotated densely from then on if one bit differs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from quantpipe.quantize.worker.streaming.memory import Buffers


class Factored:
    """A rotation, and how to rotate weights by it.

    Args:
        signs: of the rotation's rows, [n].
        plain: the rotation with all of them positive, [n, n], float32, on the host.
        outer, inner: the factors A / s and B, [s, s].
    """

    STACK = 1 << 21
    """Elements that are rotated at once, few enough to stay in the processor's cache; or one weight."""
    PANEL, ROWS = 16, 96
    """Columns and rows of a small dense product: constant, so that the library takes the same routine."""
    NEAR = 2.0**-30.5
    """Tolerance, times n, relative to the root mean square of a row's results. Of rows with heavy tails,
    float32 sums of 1,024 terms were off by at most 2^-20.7, of 4,096 by 2^-19.8; on average by 2^-25."""

    def __init__(
        self, signs: torch.Tensor, plain: torch.Tensor, outer: torch.Tensor, inner: torch.Tensor
    ) -> None:
        self.signs, self.outer, self.inner = signs, outer, inner
        self.rot = plain * signs.unsqueeze(1)
        self.panels = torch.stack(plain.split(self.PANEL, dim=1))  # [n / PANEL, n, PANEL]
        self.verified: dict[tuple[bool, torch.Size, torch.dtype], bool] = {}
        self._buffers = Buffers()

    @classmethod
    def of(cls, rot: torch.Tensor) -> Factored | None:
        """The factors; None where there are none, or where an entry is not a power of two."""
        size = rot.shape[0]
        side = math.isqrt(size)
        if rot.device.type != "cpu" or side * side != size or side < 8 or side & (side - 1):
            return None
        signs = rot[:, 0].sign()
        plain = rot * signs.unsqueeze(1)
        outer, inner = plain[::side, ::side].contiguous(), plain[:side, :side] * side
        if not torch.equal(torch.kron(outer, inner), plain):
            return None
        return cls(signs, plain, outer, inner)

    def rotate(self, weights: Sequence[torch.Tensor], *, left: bool) -> None:
        """Rotate weights of one shape in place: w becomes w @ rot, or rot.T @ w where `left`."""
        kind = left, weights[0].shape, weights[0].dtype
        if kind not in self.verified:
            self.verified[kind] = weights[0].element_size() == 2 and self._verify(weights[0], left)
        if not self.verified[kind]:
            for weight in weights:
                weight.copy_(self._dense(weight, left))
            return
        count = max(1, self.STACK // weights[0].numel())
        for begin in range(0, len(weights), count):
            stack = weights[begin : begin + count]
            rotated = self._product([weight.T if left else weight for weight in stack])[0]
            for weight, part in zip(stack, rotated.chunk(len(stack)), strict=True):
                weight.copy_(part.T if left else part)
        self._buffers.clear()

    def _dense(self, weight: torch.Tensor, left: bool) -> torch.Tensor:
        return self.rot.T @ weight.float() if left else weight.float() @ self.rot

    def _verify(self, weight: torch.Tensor, left: bool) -> bool:
        """Whether both products of this weight have the same bits; of values taken densely, in float32."""
        dense = self._dense(weight, left)
        whole = dense.T if left else dense
        rotated, taken = self._product([weight.T if left else weight])
        panels = whole.unflatten(1, (-1, self.PANEL))
        equal = all(torch.equal(values, panels[rows, panel]) for rows, panel, values in taken)
        return equal and torch.equal(rotated, whole.to(weight.dtype))

    def _product(
        self, stack: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]:
        """The product of stacked matrices with the rotation, in their own type.

        Args:
            stack: matrices [m, n].

        Returns:
            [len(stack) * m, n], valid until the next call; and which of it came from small dense products:
            rows and panels, and float32 values [n / PANEL, ROWS, PANEL].
        """
        side, shape = self.inner.shape[0], (len(stack) * stack[0].shape[0], stack[0].shape[1])
        rows = self._buffers.take("rows", shape)
        for matrix, part in zip(stack, rows.chunk(len(stack)), strict=True):
            part.copy_(matrix)  # converted first: a product of two types takes ten times as long
        rows.mul_(self.signs)
        inner, value = self._buffers.take("inner", shape), self._buffers.take("value", shape)
        torch.matmul(rows.view(-1, side), self.inner, out=inner.view(-1, side))
        torch.matmul(self.outer.T, inner.view(-1, side, side), out=value.view(-1, side, side))
        near = torch.linalg.vector_norm(rows, dim=1, keepdim=True) * (self.NEAR * side)
        dtype = stack[0].dtype
        result = self._buffers.take("result", shape, dtype).copy_(torch.add(value, near, out=inner))
        below = self._buffers.take("below", shape, dtype).copy_(value.sub_(near))
        taken = []
        every = torch.arange(self.panels.shape[0]).unsqueeze(1)
        for some in _by_panel(_differing(result, below), self.ROWS):
            given = self._buffers.take("given", (some.numel(), shape[1]))
            torch.index_select(rows, 0, some.view(-1), out=given)
            values = torch.bmm(given.view(*some.shape, -1), self.panels)
            result.unflatten(1, (-1, self.PANEL))[some, every] = values.to(dtype)
            taken.append((some, every, values))
        return result, taken


def _differing(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Where two matrices [m, n] of two-byte values differ: [m, n / PANEL]."""
    quads = one.view(torch.int64) != other.view(torch.int64)  # four values at once, then four of these
    return quads.view(torch.int32) != 0


def _by_panel(differing: torch.Tensor, most: int) -> Iterator[torch.Tensor]:
    """The rows that differ in each panel, some at a time: [panels, most], padded with row 0."""
    panel, row = differing.T.nonzero(as_tuple=True)
    counts = torch.bincount(panel, minlength=differing.shape[1])
    place = torch.arange(row.numel()) - (counts.cumsum(0) - counts)[panel]
    while row.numel():
        now = place < most
        found = torch.zeros(differing.shape[1], most, dtype=torch.int64)
        found[panel[now], place[now]] = row[now]
        yield found
        panel, row, place = panel[~now], row[~now], place[~now] - most
