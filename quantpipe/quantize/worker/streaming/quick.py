"""A quicker search for alpha and beta, for `exact: false`.

A rotation by factors (a fast Hadamard transform) is not among the quicker arithmetic, though it would take a
sixth of the time: it changes one bf16 value in 100,000, and that is enough to send a few tokens to other
experts, to move the channels' maxima, and so to change a fifth of q, k and v from the second layer on
(docs/streaming.md). Products over the tokens of all prompts (batched.py) and this search change none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from quantpipe.quantize.worker.streaming.smooth import LeanFlexSmoothProcessor, Search, rounded


class QuickSearch(Search):
    """Evaluates in full only the pairs that are among the best on a part of the tokens."""

    SHARE, MARGIN, FEWEST = 8, 1.015, 256

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
