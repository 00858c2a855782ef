"""The factored rotation gives every bit of the dense product."""

from __future__ import annotations

from typing import Any

import torch
from msmodelslim.processor.quarot.common.quarot_utils import QuaRotMode, create_rot

from quantpipe.quantize.worker.streaming.factored import Factored

SIZES = {256: 96, 1024: 64, 4096: 48}
"""Hidden sizes, and rows of the matrices that are rotated."""


def test_rotation() -> None:
    """Every bit of the dense product, from both sides, for matrices of all sorts and stacks of any size."""

    for size, count in SIZES.items():
        rot = create_rot(QuaRotMode.HADAMARD, size)
        torch.manual_seed(size)
        factored = Factored.of(rot)
        assert factored is not None
        factored.STACK = 3 * count * size  # several stacks, the last one not full
        for left in (False, True):
            weights = [_matrix(kind, count, size) for kind in range(8)]
            weights = [weight.T.contiguous() if left else weight for weight in weights]
            dense = [(rot.T @ w.float() if left else w.float() @ rot).bfloat16() for w in weights]
            factored.rotate(weights, left=left)
            assert list(factored.verified.values()) == [True] * (1 + left), factored.verified
            for number, (weight, wanted) in enumerate(zip(weights, dense, strict=True)):
                assert torch.equal(weight, wanted), (size, left, number)
    for size in (96, 128, 512, 2048):
        assert Factored.of(create_rot(QuaRotMode.HADAMARD, size)) is None, size
    assert Factored.of(torch.eye(256)) is None


def test_rotation_needs_its_dense_part() -> None:
    """Without it a few values differ: what is near a middle is what differs, and nothing else."""

    rot = create_rot(QuaRotMode.HADAMARD, 1024)
    torch.manual_seed(0)
    weights = torch.cat([_matrix(2, 512, 1024) for _ in range(4)])
    factored = Factored.of(rot)
    assert factored is not None
    factored.NEAR = 0.0
    alone = factored._product([weights])[0]
    differing = int((alone != (weights.float() @ rot).bfloat16()).sum())
    assert 0 < differing < weights.numel() / 10_000, differing


def test_a_library_of_other_bits() -> None:
    """Where a few rows and columns have other bits than the whole product, the whole product it is."""

    rot = create_rot(QuaRotMode.HADAMARD, 1024)
    torch.manual_seed(0)
    weights = [_matrix(0, 64, 1024) for _ in range(3)]
    dense = [(weight.float() @ rot).bfloat16() for weight in weights]
    factored = Factored.of(rot)
    assert factored is not None
    factored.panels = factored.panels * (1 + 2.0**-20)
    factored.rotate(weights, left=False)
    assert list(factored.verified.values()) == [False]
    assert all(torch.equal(one, other) for one, other in zip(weights, dense, strict=True))


def _matrix(kind: int, rows: int, size: int) -> Any:
    """bf16 [rows, size]: even, with outliers, of many magnitudes, sparse, or all zero."""

    values = torch.randn(rows, size) * 0.02
    if kind % 5 == 1:
        values[:, ::97] *= 50
    elif kind % 5 == 2:
        values *= torch.exp(torch.randn(rows, size))
    elif kind % 5 == 3:
        values *= torch.rand(rows, size) < 0.1
    elif kind % 5 == 4:
        values *= 0
        values[1:, 5] = 3000 * 0.02
    return values.bfloat16()
