"""Figures that compare two tensors or two distributions. All are finite; see store/quality.py."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from quantpipe.store.quality import LARGEST, LARGEST_DB

_TINY = 1e-30
_CHUNK_BYTES = 64 << 20
"""Of float32 logits at a time."""


def noise(reference: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """|found - reference|^2 / |reference|^2 of each token, float32 [tokens].

    Args:
        reference, found: [tokens, width] in any float type.
    """
    wanted = reference.float()
    error = torch.linalg.vector_norm(found.float() - wanted, dim=-1)
    return (error / torch.linalg.vector_norm(wanted, dim=-1).clamp_(min=_TINY)).square_()


def decibels(ratio: torch.Tensor) -> float:
    """The SQNR of tokens whose `noise` is given, in dB: each token counts equally."""
    mean = float(ratio.double().mean())
    if not math.isfinite(mean):
        return -LARGEST_DB
    return short(min(max(-10 * math.log10(max(mean, _TINY)), -LARGEST_DB), LARGEST_DB))


def cosine(reference: torch.Tensor, found: torch.Tensor) -> float:
    """Mean over the tokens of the cosine similarity, of [tokens, width]."""
    mean = float(torch.cosine_similarity(reference.float(), found.float(), dim=-1, eps=_TINY).double().mean())
    return round(mean, 8) if math.isfinite(mean) else -1.0


def short(x: float) -> float:
    """Six digits; what is not finite becomes LARGEST."""
    return float(f"{x:.6g}") if math.isfinite(x) else LARGEST


def chunks(tokens: int, vocabulary: int) -> Iterator[slice]:
    """Slices of the tokens, so that a slice's logits take bounded memory."""
    step = max(1, _CHUNK_BYTES // (4 * vocabulary))
    yield from (slice(begin, begin + step) for begin in range(0, tokens, step))


def divergence(
    reference: torch.Tensor, quantized: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two models' predictions of some tokens.

    Args:
        reference, quantized: logits [tokens, vocabulary].
        targets: ids of the tokens that followed, [tokens].

    Returns:
        [tokens] each: Kullback-Leibler divergence in nats (reference to quantized), log-probabilities of the
        targets by the reference and by the quantized model, and whether both expect the same token most.
    """
    wanted, found = torch.log_softmax(reference.float(), -1), torch.log_softmax(quantized.float(), -1)
    kl = (wanted.exp() * (wanted - found)).sum(-1).clamp_(min=0.0)
    of_targets = [each.gather(-1, targets.unsqueeze(-1)).squeeze(-1) for each in (wanted, found)]
    return kl, of_targets[0], of_targets[1], wanted.argmax(-1) == found.argmax(-1)
