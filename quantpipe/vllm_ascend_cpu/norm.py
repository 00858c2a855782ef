"""RMSNorm with the bias that anti-outlier m4 adds."""

from __future__ import annotations

from typing import Any

import torch
from vllm.config import get_current_vllm_config
from vllm.model_executor.layers.layernorm import RMSNorm

from .config import AscendCpuConfig


class BiasedRMSNorm(RMSNorm):  # type: ignore[misc]
    """vLLM's RMSNorm; with this quantization and biases in the description, y = RMSNorm(x) + bias.

    As in vllm-ascend (`ops/layernorm.py`), either all norms of a model have a bias parameter or
    none; a norm without a tensor for it keeps zeros. Other models are not affected.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        quantization = get_current_vllm_config().quant_config
        self.bias: torch.nn.Parameter | None = None
        if isinstance(quantization, AscendCpuConfig) and quantization.description.has_norm_bias:
            self.bias = torch.nn.Parameter(torch.zeros(self.hidden_size), requires_grad=False)

    def forward_native(
        self, x: torch.Tensor, residual: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """x [..., size], or the pair (normed x + residual, x + residual) if a residual is given."""
        normed = super().forward_native(x, residual)
        if self.bias is None:
            return normed
        if residual is None:
            return normed + self.bias
        return normed[0] + self.bias, normed[1]

    forward_cpu = forward_native
