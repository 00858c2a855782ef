from __future__ import annotations

import math

import pytest
import torch

from quantpipe.quantize.worker.streaming.quality.figures import (
    chunks,
    cosine,
    decibels,
    divergence,
    noise,
    short,
)
from quantpipe.store.quality import LARGEST, LARGEST_DB


def test_each_token_counts_equally() -> None:
    """Also where one of them is a thousand times as large as the others."""
    reference = torch.ones(4, 8, dtype=torch.bfloat16)
    reference[0] *= 1024
    found = reference.clone()
    found[1:] *= 1.5
    assert noise(reference, found).tolist() == [0.0, 0.25, 0.25, 0.25]
    assert decibels(noise(reference, found)) == pytest.approx(-10 * math.log10(0.75 / 4), abs=1e-4)


def test_figures_are_finite_whatever_is_compared() -> None:
    good, zero = torch.ones(2, 4), torch.zeros(2, 4)
    broken = torch.full((2, 4), torch.nan)
    assert (decibels(noise(good, good)), cosine(good, good)) == (LARGEST_DB, 1.0)
    assert (decibels(noise(good, broken)), cosine(good, broken)) == (-LARGEST_DB, -1.0)
    assert decibels(noise(zero, zero)) == LARGEST_DB
    assert decibels(noise(zero, good)) == -LARGEST_DB
    assert decibels(noise(good, -good)) == pytest.approx(-6.0206, abs=1e-3)
    assert cosine(good, -good) == -1.0
    assert [short(value) for value in (1.23456789, math.nan, math.inf)] == [1.23457, LARGEST, LARGEST]


def test_divergence_is_that_of_its_definition() -> None:
    first, second = torch.randn(5, 11), torch.randn(5, 11)
    targets = torch.tensor([0, 3, 5, 7, 10])
    kl, bf16, quantized, same = divergence(first, second, targets)
    p, q = first.double().softmax(-1), second.double().softmax(-1)
    assert kl.tolist() == pytest.approx((p * (p / q).log()).sum(-1).tolist(), rel=1e-4)
    assert bf16.tolist() == pytest.approx(p.log()[range(5), targets].tolist(), rel=1e-4)
    assert quantized.tolist() == pytest.approx(q.log()[range(5), targets].tolist(), rel=1e-4)
    assert same.tolist() == (p.argmax(-1) == q.argmax(-1)).tolist()
    assert divergence(first, first, targets)[0].tolist() == [0.0] * 5


def test_logits_come_in_chunks_of_bounded_size() -> None:
    parts = list(chunks(1000, 152_000))
    assert max(part.stop - part.start for part in parts) * 152_000 * 4 <= 64 << 20
    assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
    assert len(range(1000)[parts[-1]]) + sum(part.stop - part.start for part in parts[:-1]) == 1000
    assert len(list(chunks(3, 10**9))) == 3
