"""checkpoint/arithmetic, which needs torch, against Python integers and exact fractions."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import torch

from quantpipe.checkpoint import arithmetic


def integers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(-128, 128, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(seed))


def exact_product(a: torch.Tensor, b: torch.Tensor) -> list[list[int]]:
    rows, columns = a.tolist(), b.tolist()
    return [[sum(x * y for x, y in zip(row, column, strict=True)) for column in columns] for row in rows]


def round_half_even(value: Fraction) -> int:
    return round(value)  # Python rounds exact halves to even, as torch.round does


def test_product_is_exact(tmp_path: Path) -> None:
    for tokens, in_, out in ((1, 1, 1), (1, 64, 16), (5, 100, 7), (33, 257, 48), (3, 4096, 2)):
        a, b = integers(tokens, in_, seed=tokens), integers(out, in_, seed=out + 1)
        result = arithmetic.int8_matmul(a, b)
        assert result.dtype == torch.int32
        assert result.tolist() == exact_product(a, b), (tokens, in_, out)


def test_product_of_extremes_does_not_saturate(tmp_path: Path) -> None:
    for x in (-128, 127):
        for y in (-128, 127):
            a, b = torch.full((2, 8192), x, dtype=torch.int8), torch.full((16, 8192), y, dtype=torch.int8)
            assert arithmetic.int8_matmul(a, b).unique().tolist() == [x * y * 8192]


def test_block_product_equals_the_native_one(tmp_path: Path) -> None:
    for tokens, in_, out in ((1, 1, 1), (4, 1024, 3), (4, 1025, 3), (2, 5000, 17)):
        a, b = integers(tokens, in_), integers(out, in_, seed=1)
        assert arithmetic._product_in_blocks(a, b).tolist() == exact_product(a, b)
    low = torch.full((2, 3000), -128, dtype=torch.int8)
    assert arithmetic._product_in_blocks(low, low).unique().tolist() == [128 * 128 * 3000]


def test_fallback_is_used_where_the_native_product_saturates(tmp_path: Path) -> None:
    native = torch._int_mm
    a, b = integers(4, 64), integers(16, 64, seed=1)
    expected = exact_product(a, b)
    arithmetic._native_product_is_exact.cache_clear()
    try:
        torch._int_mm = lambda x, y: native(x, y).clamp(-(2**15), 2**15 - 1)
        assert not arithmetic._native_product_is_exact()
        assert arithmetic.int8_matmul(a, b).tolist() == expected
    finally:
        torch._int_mm = native
        arithmetic._native_product_is_exact.cache_clear()


def test_no_tokens(tmp_path: Path) -> None:
    assert arithmetic.int8_matmul(integers(0, 64), integers(16, 64)).shape == (0, 16)
    q, scale = arithmetic.quantize_per_token(torch.zeros(0, 64))
    assert (q.shape, scale.shape) == ((0, 64), (0, 1))


def test_static_quantization(tmp_path: Path) -> None:
    # A power of two makes the reciprocal and the product exact, so fractions are exact.
    x = torch.tensor([[0.0, 0.25, 0.5, 0.75, -0.25, -0.75, 31.0, -40.0, 1e6, -1e6]])
    scale, offset = Fraction(1, 2), 5
    expected = [min(127, max(-128, round_half_even(Fraction(v) / scale + offset))) for v in x[0].tolist()]
    q = arithmetic.quantize_static(x, torch.tensor([2.0]), torch.tensor([5.0]))
    assert q.dtype == torch.int8
    assert q[0].tolist() == expected
    assert expected[1:4] == [round(5.5), 6, round(6.5)] == [6, 6, 6], (
        "halves go to even, before the offset counts"
    )


def test_per_token_quantization(tmp_path: Path) -> None:
    x = torch.randn(50, 96, generator=torch.Generator().manual_seed(3)).to(torch.bfloat16)
    q, scale = arithmetic.quantize_per_token(x)
    assert q.abs().amax(-1).tolist() == [127] * 50
    for row, values, step in zip(x.tolist(), q.tolist(), scale[:, 0].tolist(), strict=True):
        assert abs(Fraction(step) - Fraction(max(map(abs, row))) / 127) < Fraction(step) * Fraction(1, 2**23)
        for value, integer in zip(row, values, strict=True):
            assert abs(Fraction(value) / Fraction(step) - integer) <= Fraction(1, 2) + Fraction(1, 10**4)


def test_a_token_of_zeros(tmp_path: Path) -> None:
    q, scale = arithmetic.quantize_per_token(torch.tensor([[0.0, 0.0], [1.0, -2.0]]))
    assert q.tolist() == [[0, 0], [64, -127]]
    assert torch.isfinite(scale).all()


def test_dequantize(tmp_path: Path) -> None:
    out = arithmetic.dequantize(
        torch.tensor([[1, 2], [3, 4]]), torch.tensor([0.5, 2.0]), torch.tensor([[1.0], [10.0]])
    )
    assert out.tolist() == [[0.5, 4.0], [15.0, 80.0]]
