"""Smoothing: msmodelslim's processors; the search computes nothing twice, norms keep their type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from msmodelslim.processor.anti_outlier.common import FlexSmoothQuantConfig, validate_and_process_tensors
from msmodelslim.processor.anti_outlier.common.subgraph_type import NormLinearSubgraph
from msmodelslim.processor.anti_outlier.flex_smooth.api import flex_smooth_quant
from msmodelslim.processor.anti_outlier.flex_smooth.processor import FlexSmoothQuantProcessor
from msmodelslim.processor.anti_outlier.iter_smooth.processor import IterSmoothProcessor

from quantpipe.quantize.worker.streaming.memory import Buffers

STEPS: Any = np.round(np.arange(0.0, 1.05, 0.05), decimals=2)
"""The grid of FlexSmoothAlphaBetaSearcher with its step of 0.05."""


class Search:
    """FlexSmoothAlphaBetaSearcher's search for one subgraph, with the same bits in the same type.

    What does not depend on alpha and beta (the float product, its norm, the channels' maxima) is computed
    once instead of 42 times.

    Args:
        act: inputs of the linears, [tokens, in].
        weights: of all linears after the norm, [out, in].
    """

    def __init__(self, act: torch.Tensor, weights: torch.Tensor) -> None:
        self.act, self.weights = act, weights
        self.product = self.multiply(act, weights)
        self._buffers = Buffers()
        self.norm = self.mean(self.product**2).to(act.dtype) ** 0.5
        self.act_max = act.abs().amax(dim=0, keepdim=True)
        self.weight_max = weights.abs().amax(dim=0, keepdim=True)
        self.known: dict[tuple[float, float], float] = {}

    def error(self, alpha: Any, beta: Any) -> float:
        """The relative error of the quantized product, rounded to the model's type."""
        pair = float(alpha), float(beta)
        if pair not in self.known:
            self.known[pair] = self._error(alpha, beta)
        return self.known[pair]

    def _error(self, alpha: Any, beta: Any) -> float:
        return self.relative(self.mean_square(alpha, beta))

    def mean_square(self, alpha: Any, beta: Any) -> torch.Tensor:
        """The mean square of the change of the product by quantization; on a CPU in float32."""
        scale = self.act_max**alpha * self.weight_max ** (-beta)
        difference = self.multiply(rounded(self.act / scale), rounded(self.weights * scale))
        difference.sub_(self.product)
        return self.mean(difference.mul_(difference))

    def relative(self, mean_square: torch.Tensor) -> float:
        """The root of a mean square relative to the product's own, each step rounded to the model's type."""
        return float(((mean_square.to(self.act.dtype) ** 0.5) / self.norm).item())

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        """torch.mean, which on a CPU allocates memory for all values in float32 each time."""
        if x.device.type != "cpu" or x.element_size() > 2:
            return torch.mean(x)
        return torch.mean(self._buffers.take("float32", x.shape).copy_(x))

    def multiply(self, act: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """act @ weights.T."""
        return torch.matmul(act, weights.T)

    def screen(self, pairs: Sequence[tuple[Any, Any]]) -> None:
        """Called before each half of the search: subclasses rule out pairs here."""

    def best(self) -> tuple[Any, Any]:
        """Alpha with beta = 1 - alpha first, then beta; of equal errors the last one wins."""
        best_alpha, best_beta, lowest = 0.0, 0.0, float("inf")
        self.screen([(alpha, 1.0 - alpha) for alpha in STEPS])
        for alpha in STEPS:
            if (error := self.error(alpha, 1.0 - alpha)) <= lowest:
                lowest, best_alpha = error, alpha
        self.screen([(best_alpha, beta) for beta in STEPS])
        for beta in STEPS:
            if (error := self.error(best_alpha, beta)) <= lowest:
                lowest, best_beta = error, beta
        return best_alpha, best_beta


def rounded(x: torch.Tensor) -> torch.Tensor:
    """quant_int8sym, in place: per row, to 255 levels and back."""
    interval = x.abs().amax(dim=-1, keepdim=True) / 127
    return x.div_(interval).round_().clip_(-127, 127).mul_(interval)


class LeanFlexSmoothProcessor(FlexSmoothQuantProcessor):  # type: ignore[misc]
    """msmodelslim's m6, with the search above."""

    search: type[Search] = Search

    def apply_smooth_algorithm(self, subgraph_obj: Any, linear_names: list[str]) -> None:
        """See FlexSmoothQuantProcessor."""
        context = self._build_smooth_context(linear_names)
        given = self.config.alpha is not None and self.config.beta is not None
        if given or context is None or not isinstance(subgraph_obj, NormLinearSubgraph):
            super().apply_smooth_algorithm(subgraph_obj, linear_names)
            return
        weights = torch.cat([linear.weight for linear in subgraph_obj.linears], dim=0)
        act = validate_and_process_tensors(context, weights.device, weights.dtype)
        alpha, beta = self.search(act, weights).best()
        extra = getattr(subgraph_obj, "extra_config", None)
        flex_smooth_quant(
            subgraph_obj, FlexSmoothQuantConfig(alpha=alpha, beta=beta, extra_config=extra), context
        )


class TypedIterSmoothProcessor(IterSmoothProcessor):  # type: ignore[misc]
    """msmodelslim's m4, on models that are not float32.

    It replaces each norm by one that returns float32, which the next linear of a bf16 model rejects
    ("expected m1 and m2 to have the same dtype"), and whose epsilon is fixed. A symmetric smoothing only
    scales the norm's weight, so that the model's own norm can be kept.
    """

    def _replace_norm_modules(self) -> None:
        if not self.config.symmetric:
            super()._replace_norm_modules()
