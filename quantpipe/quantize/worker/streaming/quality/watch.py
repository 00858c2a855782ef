"""What a quantized linear makes of its input, compared with the float linear that it was made of."""

from __future__ import annotations

import torch

from quantpipe.quantize.worker.streaming.quality.figures import decibels, noise, short
from quantpipe.store.quality import LinearQuality

ROWS = 32
"""Tokens of a linear whose float output is computed: more of them change its SQNR by less than 1 dB."""


class Watch:
    """The figures of one linear.

    Args:
        name: of the module.
        kind: its type, as in the description.
        weight: float [out, in], as it was just before quantizing.
        bias: float [out].
    """

    def __init__(self, name: str, kind: str, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.name, self.kind = name, kind
        self._weight, self._bias = weight, bias
        self._error = 0.0
        self._noise: list[torch.Tensor] = []
        self._values, self._clipped = 0, 0

    def see(self, x: torch.Tensor, y: torch.Tensor, integers: torch.Tensor, scale: torch.Tensor) -> None:
        """A call of the quantized linear.

        Args:
            x: float [tokens, in].
            y: float32 [tokens, out].
            integers: int8 [out, in], its weight.
            scale: float32 [out], of its weight.
        """
        tokens = x.shape[0]
        weight = self._weight.float()
        self._error = _error(weight, integers, scale)
        if tokens:
            rows = torch.linspace(0, tokens - 1, min(tokens, ROWS), device=x.device).long()
            bias = None if self._bias is None else self._bias.float()
            wanted = torch.nn.functional.linear(x[rows].float(), weight, bias)
            self._noise.append(noise(wanted, y[rows]))

    def clip(self, values: int, clipped: int) -> None:
        """Count values of the input that got a static scale, and those of them that were clipped."""
        self._values, self._clipped = self._values + values, self._clipped + clipped

    def figures(self, tokens: int, calibration_tokens: int) -> LinearQuality:
        """All of it; `see` was called at least once.

        Args:
            tokens, calibration_tokens: of the held-out and of the calibration set, that reach the linear.
        """
        return LinearQuality(
            name=self.name,
            type=self.kind,
            sqnr=decibels(torch.cat(self._noise)) if self._noise else None,
            weight_error=short(self._error),
            saturated=short(self._clipped / self._values) if self._values else 0.0,
            tokens=tokens,
            calibration_tokens=calibration_tokens,
        )


def _error(weight: torch.Tensor, integers: torch.Tensor, scale: torch.Tensor) -> float:
    """|dequantized - float| / |float|."""
    found = integers.float().mul_(scale.unsqueeze(-1)).sub_(weight)
    return float(torch.linalg.vector_norm(found) / torch.linalg.vector_norm(weight).clamp_(min=1e-30))
