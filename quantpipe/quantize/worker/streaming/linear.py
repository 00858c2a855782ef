"""Linears during calibration: the same bits as msmodelslim's, without its repeated work.

msmodelslim's LinearQuantizer quantizes and dequantizes the weight on every call, and the same input once for
each of the linears that share it (q, k and v; gate and up). Here the weight is quantized once and an input
once. The arithmetic is that of msmodelslim.core.quantizer.impl.minmax and ir.api.impl.int_quantization:
the same operations on the same values in the same type, without those that cannot change a bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from msmodelslim import ir
from msmodelslim.core.quantizer.linear import LinearQConfig
from msmodelslim.ir.api import calculate_qparam
from msmodelslim.ir.qal import QDType, QParam, QScheme, QScope, QStorage
from msmodelslim.processor.quant.linear import LinearQuantProcessor
from torch import nn

_EPSILON = torch.finfo(torch.float32).eps


def symmetric_scale(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """calculate_int_qparam's scale for symmetric int8; `low` and `high` may be of any one shape."""
    zero = torch.zeros((), dtype=low.dtype, device=low.device)
    largest = torch.max(-torch.min(low, zero), torch.max(high, zero))
    return torch.max(largest / 127.0, torch.tensor(_EPSILON, dtype=low.dtype, device=low.device))


def quantized(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Symmetric int8 values, still in the type of `x`: int_quantize without the offset of zero."""
    return x.div(scale).round_().clamp_(-128, 127)


def quantize_weight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Per output channel, symmetric, min-max. The weight itself is replaced by its dequantized int8 values.

    Args:
        weight: [..., out, in].

    Returns:
        int8 values [..., out, in] and scales [..., out] in the weight's type.
    """
    low, high = weight.amin(dim=-1), weight.amax(dim=-1)  # five times as fast, by rows, as aminmax
    scale = symmetric_scale(low, high)
    integers = weight.div_(scale.unsqueeze(-1)).round_().clamp_(-128, 127).to(torch.int8)
    # int8 has no negative zero: without this conversion the result would be -0.0 instead of 0.0.
    weight.copy_(integers).mul_(scale.unsqueeze(-1))
    return integers, scale


class Input:
    """The last input that was quantized, for the linears that get the same tensor object."""

    def __init__(self) -> None:
        self.given: torch.Tensor | None = None
        self.rounded: torch.Tensor | None = None
        self.state: Any = None


class CalibratedLinear(nn.Module):  # type: ignore[misc]
    """A linear whose weight is quantized and whose input is rounded, as msmodelslim does during calibration.

    Args:
        linear: without hooks.
        config: static per tensor (asymmetric) or per token (symmetric) inputs; see `supports`.
        shared: the same object for all linears of a layer that have this config.
    """

    def __init__(self, linear: nn.Linear, config: LinearQConfig, shared: Input) -> None:
        super().__init__()
        self.config, self.shared = config, shared
        self.bias = linear.bias
        self.rounded = linear.weight.detach()  # the linear is not used again
        self.integers, self.scale = quantize_weight(self.rounded)
        self.static = config.act.scope == QScope.PER_TENSOR
        self.seen: tuple[torch.Tensor, torch.Tensor] | None = None
        self.parameters_of_input: QParam | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product of the rounded input and the rounded weight."""
        return nn.functional.linear(self.rounded_input(x), self.rounded, self.bias)

    def rounded_input(self, x: torch.Tensor) -> torch.Tensor:
        """Quantize and dequantize an input, and record its range where the scale is static."""
        if self.shared.given is not x or self.shared.rounded is None:
            if self.static:
                self.record(*x.aminmax())
            self.shared.rounded = self._round(x)
            self.shared.given, self.shared.state = x, (self.seen, self.parameters_of_input)
        self.seen, self.parameters_of_input = self.shared.state
        return self.shared.rounded

    def record(self, low: torch.Tensor, high: torch.Tensor) -> None:
        """Extend the range of the prompts so far by a prompt's."""
        if self.seen is not None:
            low, high = torch.min(self.seen[0], low), torch.max(self.seen[1], high)
        self.seen = low, high
        act = self.config.act
        self.parameters_of_input = calculate_qparam(
            min_val=low,
            max_val=high,
            q_dtype=QDType(act.dtype),
            q_scope=QScope(act.scope),
            symmetric=act.symmetric,
        )

    def _round(self, x: torch.Tensor) -> torch.Tensor:
        if self.static and self.parameters_of_input is not None:
            scale, offset = self.parameters_of_input.ext["scale"], self.parameters_of_input.ext["offset"]
            return (x / scale).add_(offset).round_().clamp_(-128, 127).sub_(offset).mul_(scale)
        # During calibration, msmodelslim's "per token" is per tensor: its observer takes all dimensions.
        scale = symmetric_scale(*x.aminmax())
        return quantized(x, scale).add_(0.0).mul_(scale)

    def deploy(self) -> nn.Module:
        """The module that msmodelslim's saver can write.

        Raises:
            RuntimeError: the input's scale is static and no prompt reached this linear.
        """
        act, weight = self.config.act, self.config.weight
        given = self.parameters_of_input
        if given is None and self.static:
            raise RuntimeError(
                "no prompt reached a linear with a static input scale: use more or other calibration prompts"
            )
        scheme = QScheme(QScope(weight.scope), QDType(weight.dtype), weight.symmetric)
        deployed: nn.Module = ir.AutoFakeQuantLinear.create(
            given if given is not None else QParam(scheme=act.to_scheme()),
            QParam(scheme=scheme, ext={"scale": self.scale}),
            QStorage(QDType.INT8, self.integers),
            self.bias,
        )
        return deployed


def supports(config: LinearQConfig) -> bool:
    """Whether CalibratedLinear has this config's arithmetic."""
    act, weight = config.act, config.weight
    static = act.scope == QScope.PER_TENSOR and not act.symmetric
    dynamic = act.scope == QScope.PER_TOKEN and act.symmetric
    plain = not act.ext and not weight.ext and act.method == weight.method == "minmax"
    int8 = act.dtype == weight.dtype == QDType.INT8
    return int8 and plain and (static or dynamic) and weight.scope == QScope.PER_CHANNEL and weight.symmetric


class LeanLinearQuantProcessor(LinearQuantProcessor):  # type: ignore[misc]
    """msmodelslim's processor, with CalibratedLinear wherever that gives the same bits.

    Attributes:
        keep: called with each linear, and its full name, before its weight is replaced.
        on_linear: called after it.
    """

    keep: Callable[[str, nn.Linear], None] = staticmethod(lambda name, linear: None)
    on_linear: Callable[[], None] = staticmethod(lambda: None)

    def count(self, request: Any) -> int:
        """How many linears of a layer this processor quantizes."""
        modules = request.module.named_modules(prefix=request.name)
        names = (name for name, module in modules if isinstance(module, nn.Linear))
        return sum(name in self.include and name not in self.exclude for name in names)

    def preprocess(self, request: Any) -> None:
        """See LinearQuantProcessor."""
        self._shared = Input()
        super().preprocess(request)

    def postprocess(self, request: Any) -> None:
        """See LinearQuantProcessor."""
        super().postprocess(request)
        self._shared = Input()

    def _process_linear(self, full_name: str, module: nn.Linear) -> None:
        self.keep(full_name, module)
        self._replace(full_name, module)
        self.on_linear()

    def _replace(self, full_name: str, module: nn.Linear) -> None:
        if not supports(self.config.qconfig) or module._forward_pre_hooks:
            super()._process_linear(full_name, module)
            return
        parent, _, leaf = full_name.rpartition(".")
        calibrated = CalibratedLinear(module, self.config.qconfig, self._shared)
        self.model.get_submodule(parent)._modules[leaf] = calibrated
