"""A faster search for alpha and beta, for `exact: false`.

It finds what the full search finds: a sample of the tokens rules a pair out only where it is five standard
errors worse. Approximate arithmetic is not enough: on rotated weights the best pairs are within 1 % of each
other, and another pair changes a fifth of the int8 weights of q, k and v (docs/streaming.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from quantpipe.quantize.worker.streaming.smooth import LeanFlexSmoothProcessor, Search, rounded

Pair = tuple[float, float]


class QuickSearch(Search):
    """Multiplies all tokens only for pairs whose rounded error a sample of the tokens does not decide.

    Errors are rounded to the model's type, bf16: steps of half a percent, and pairs within one step are
    equal. A sample estimates the ratio of each pair's mean square to that of a reference pair whose mean
    square is known, with a confidence interval. Where the whole interval rounds to one error, that is the
    error; where it cannot be the lowest, the pair is ruled out.
    """

    SHARES, FEWEST = (16, 4), 128
    """A sample is every 16th (4th) token; smaller samples than this decide nothing."""
    DEVIATIONS = 5.0
    """Half the interval, in standard errors of the ratio."""

    def __init__(self, act: torch.Tensor, weights: torch.Tensor) -> None:
        super().__init__(act, weights)
        self._reference: tuple[Pair, torch.Tensor] | None = None

    def screen(self, pairs: Sequence[tuple[Any, Any]]) -> None:
        """Find the errors of all pairs that could be the best; those of the others become infinite."""
        keys = [(float(alpha), float(beta)) for alpha, beta in pairs]
        least = {pair: 0.0 for pair in keys if pair not in self.known}
        for share in self.SHARES:
            if self.act.shape[0] < share * self.FEWEST:
                continue
            least = self._by_sample(list(least), share)
        for pair in reversed(least):  # of equal errors the last one wins
            lowest = min(self.known.values(), default=float("inf"))
            later = keys[keys.index(pair) + 1 :]
            equal = any(self.known.get(other) == lowest for other in later)
            if least[pair] > lowest or (least[pair] == lowest and equal):
                self.known[pair] = float("inf")
            else:
                self.error(*pair)

    def _by_sample(self, pairs: Sequence[Pair], share: int) -> dict[Pair, float]:
        """Decide what a sample can decide; the least possible errors of the other pairs."""
        act, product = self.act[::share].contiguous(), self.product[::share]
        seen = {pair: self._squares(act, product, pair) for pair in pairs}
        if self._reference is None and seen:
            first = min(seen, key=lambda pair: float(seen[pair].sum()))
            self._reference = first, self.mean_square(*first)
            self.known[first] = self.relative(self._reference[1])
        least: dict[Pair, float] = {}
        if self._reference is None:
            return least
        reference, mean_square = self._reference
        of_reference = seen[reference] if reference in seen else self._squares(act, product, reference)
        for pair in seen.keys() - {reference}:
            low, high = self._interval(seen[pair], of_reference, mean_square)
            if low == high:
                self.known[pair] = low
            else:
                least[pair] = low
        lowest = min(self.known.values())
        self.known |= {pair: float("inf") for pair, low in least.items() if low > lowest}
        return {pair: least[pair] for pair in pairs if least.get(pair, float("inf")) <= lowest}

    def _interval(
        self, squares: torch.Tensor, of_reference: torch.Tensor, mean_square: torch.Tensor
    ) -> tuple[float, float]:
        """The least and the largest error that a pair may have.

        Args:
            squares, of_reference: the squared error of each token of the sample, of this pair and of the
                reference, [tokens].
            mean_square: of the reference, over all tokens.
        """
        ratio = squares.sum() / of_reference.sum()
        # Of a ratio of two sums over one sample: Cochran, Sampling Techniques, section 6.3.
        off = torch.linalg.vector_norm(squares - ratio * of_reference) / of_reference.sum() * self.DEVIATIONS
        return self.relative(mean_square * (ratio - off)), self.relative(mean_square * (ratio + off))

    def _squares(self, act: torch.Tensor, product: torch.Tensor, pair: Pair) -> torch.Tensor:
        scale = self.act_max ** pair[0] * self.weight_max ** (-pair[1])
        found = self.multiply(rounded(act / scale), rounded(self.weights * scale)).sub_(product)
        return torch.linalg.vector_norm(found, dim=1, dtype=torch.float32).square_()

    def multiply(self, act: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """In float32 where the processor has no bf16 products: there they take ten times as long."""
        if torch.cpu._is_avx512_bf16_supported() or act.device.type != "cpu":
            return super().multiply(act, weights)
        return torch.matmul(act.float(), weights.float().T).to(act.dtype)


class QuickFlexSmoothProcessor(LeanFlexSmoothProcessor):
    """msmodelslim's m6, with the faster search."""

    search = QuickSearch
