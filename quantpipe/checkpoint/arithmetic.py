"""The integer arithmetic of vllm-ascend's W8A8 layers, exact on any CPU: what a checkpoint means when served.

Formulas: vllm-ascend `quantization/methods/w8a8_static.py` and `w8a8_dynamic.py` for what is
called in which order and in which dtype; CANN's descriptions of npu_quantize, npu_dynamic_quant
and npu_quant_matmul for what each call computes. Products are int8 x int8 summed in int32, so the
only roundings are those of the formulas, and they are in float32.

Needs torch: for the quantize worker, which measures the quantized model's quality, and for vLLM's plugin.
"""

from __future__ import annotations

import functools

import torch

from quantpipe.checkpoint.tensors import INT8_RANGE

INT8_MIN, INT8_MAX = INT8_RANGE

# 1024 products of at most 2**14 add up to 2**24, the last integer up to which float32 is exact.
_EXACT_TERMS = 1024


def int8_matmul(activations: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`activations @ weight.T`, exactly.

    Args:
        activations: int8 [tokens, in].
        weight: int8 [out, in].

    Returns:
        int32 [tokens, out].
    """
    if activations.device.type == "cpu" and _native_product_is_exact():
        return torch._int_mm(activations.contiguous(), weight.t())
    return _product_in_blocks(activations, weight)


def quantize_static(x: torch.Tensor, scale_reciprocal: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Per-tensor activation quantization: `clamp(round(x / scale + offset))`, as npu_quantize.

    Args:
        x: float [tokens, in].
        scale_reciprocal: float [1]: 1 / input_scale, rounded to the model's dtype as vllm-ascend does.
        offset: float [1]: input_offset.

    Returns:
        int8 [tokens, in]. Rounding is to the nearest, ties to even.
    """
    return to_int8(static_levels(x, scale_reciprocal, offset))


def static_levels(x: torch.Tensor, scale_reciprocal: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """What `quantize_static` clips: integers as float32 [tokens, in], also those that int8 does not hold."""
    return torch.round(x.float() * scale_reciprocal.float() + offset.float())


def to_int8(levels: torch.Tensor) -> torch.Tensor:
    """Clip levels, in place, to what int8 holds."""
    return levels.clamp_(INT8_MIN, INT8_MAX).to(torch.int8)


def quantize_per_token(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric per-token quantization, as npu_dynamic_quant: scale = max|x| / 127 of the token.

    Args:
        x: float [tokens, in].

    Returns:
        int8 [tokens, in] and the float32 scales [tokens, 1]. A token of zeros gives zeros.
    """
    x = x.float()
    scale = x.abs().amax(-1, keepdim=True) / INT8_MAX
    divisor = torch.where(scale > 0, scale, torch.ones_like(scale))
    return to_int8(torch.round(x / divisor)), scale


def dequantize(accumulator: torch.Tensor, *scales: torch.Tensor) -> torch.Tensor:
    """float32 `accumulator * scales[0] * scales[1] ...`; the scales broadcast to [tokens, out]."""
    out = accumulator.float()
    for scale in scales:
        out = out * scale
    return out


def static_linear(
    q: torch.Tensor, weight: torch.Tensor, quant_bias: torch.Tensor | None, deq_scale: torch.Tensor
) -> torch.Tensor:
    """W8A8: `(q @ weight.T + quant_bias) * deq_scale`.

    Args:
        q: int8 [tokens, in].
        weight: int8 [out, in].
        quant_bias: int32 [out], which contains the input's offset and the float bias; None where another rank
            adds it.
        deq_scale: float32 [out].

    Returns:
        float32 [tokens, out].
    """
    accumulator = int8_matmul(q, weight)
    return dequantize(accumulator if quant_bias is None else accumulator + quant_bias, deq_scale)


def dynamic_linear(
    q: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor
) -> torch.Tensor:
    """W8A8_DYNAMIC, without a bias: `(q @ weight.T) * weight_scale * scale`.

    Args:
        q: int8 [tokens, in].
        scale: float32 [tokens, 1], of each token.
        weight: int8 [out, in].
        weight_scale: float32 [out].

    Returns:
        float32 [tokens, out].
    """
    return dequantize(int8_matmul(q, weight), weight_scale, scale)


def _product_in_blocks(activations: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The same product out of float32 products that are short enough to be exact."""
    out = torch.zeros(activations.shape[0], weight.shape[0], dtype=torch.int32, device=weight.device)
    pairs = zip(activations.split(_EXACT_TERMS, 1), weight.split(_EXACT_TERMS, 1), strict=True)
    for block, weight_block in pairs:
        out += (block.float() @ weight_block.float().t()).to(torch.int32)
    return out


@functools.cache
def _native_product_is_exact() -> bool:
    """Whether torch's int8 product is exact here.

    On x86 CPUs without VNNI, int8 kernels may add pairs of products in saturating int16
    (oneDNN's documentation of int8 on such CPUs): the extreme values show it.
    """
    low = torch.full((16, 64), INT8_MIN, dtype=torch.int8)
    high = torch.full((16, 64), INT8_MAX, dtype=torch.int8)
    pairs = ((low, low), (low, high), (high, low), (high, high))
    return all(torch.equal(torch._int_mm(a, b.t()), _product_in_blocks(a, b)) for a, b in pairs)
