"""The linear layers: W8A8 (static) and W8A8_DYNAMIC.

Parameters have the names, shapes and dtypes of vllm-ascend (`quantization/method_adapters.py` and
`methods/w8a8_*.py`), so that what is rounded on the NPU is rounded here: input_scale and
weight_scale to the model's dtype, input_offset to int8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from vllm.model_executor.layers.linear import LinearMethodBase, RowParallelLinear
from vllm.model_executor.utils import set_weight_attrs

from quantpipe.checkpoint.arithmetic import (
    dynamic_linear,
    quantize_per_token,
    quantize_static,
    static_linear,
)
from quantpipe.checkpoint.tensors import DYNAMIC, OF_THE_INPUT, STATIC, required_tensors

from . import values
from .description import part_names
from .ledger import LoadLedger

_OUT_DIM = {"output_dim": 0}


class _Int8LinearMethod(LinearMethodBase):  # type: ignore[misc]
    """What both types share: parameters whose loading goes through the ledger.

    vLLM selects the loader by the class name of the method; ours is unknown to it and gets the
    original `weight_loader`, as vllm-ascend's does. One instance serves one layer.

    Args:
        prefix: vLLM's name of the layer (`model.layers.0.self_attn.qkv_proj`).
        ledger: of this load.
    """

    fields = required_tensors(DYNAMIC)

    def __init__(self, prefix: str, ledger: LoadLedger) -> None:
        self.ledger = ledger
        self.parts = part_names(prefix)
        self.loaded: dict[str, torch.Tensor] = {}
        self.params_dtype: torch.dtype | None = None

    def parameters(self, out: int, in_: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """The layer's parameters on this rank, by name. Float ones start as NaN."""
        return {
            "weight": torch.zeros(out, in_, dtype=torch.int8),
            "weight_scale": torch.full((out, 1), torch.nan, dtype=dtype),
            "weight_offset": torch.zeros(out, 1, dtype=dtype),
        }

    def create_weights(
        self,
        layer: torch.nn.Module,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **extra_weight_attrs: Any,
    ) -> None:
        """Register the parameters of this rank; see LinearMethodBase."""
        self.params_dtype = params_dtype
        loader = extra_weight_attrs.pop("weight_loader")
        out = sum(output_partition_sizes)
        for field, data in self.parameters(out, input_size_per_partition, params_dtype).items():
            param = torch.nn.Parameter(data, requires_grad=False)
            # One value for the whole fused layer, never split by tensor parallelism.
            cut = {} if field in OF_THE_INPUT else _OUT_DIM
            if field == "weight":
                cut = {**cut, "input_dim": 1}
            inner = _copy if field in OF_THE_INPUT else loader
            attrs = {**extra_weight_attrs, **cut, "weight_loader": self._recording(field, inner)}
            set_weight_attrs(param, attrs)
            layer.register_parameter(field, param)

    def _recording(self, field: str, loader: Callable[..., None]) -> Callable[..., None]:
        """A weight loader that records to the ledger, and keeps the small tensors for the checks."""

        def load(param: torch.nn.Parameter, loaded: torch.Tensor, *shard: str | int) -> None:
            name = f"{self._part(*shard)}.{field}"
            self.ledger.arrive(name)
            if field == "weight":
                self.loaded[f"{name}_sum"] = loaded.sum(1, dtype=torch.int64)
            else:
                self.loaded[name] = loaded.clone()
            loader(param, loaded, *shard)

        return load

    def _part(self, shard: str | int | None = None) -> str:
        """The checkpoint's layer of a shard id: q/k/v, an index, or nothing for an unfused layer."""
        if shard is None:
            return self.parts[0]
        return self.parts["qkv".index(shard) if isinstance(shard, str) else shard]

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Check what was loaded, then prepare for `apply`.

        Raises:
            CheckpointLoadError: a tensor is missing or its values are wrong.
        """
        self.ledger.check_arrived(f"{part}.{field}" for part in self.parts for field in self.fields)
        self.ledger.fail([problem for part in self.parts for problem in self._part_problems(part)])
        self.ledger.fail(self._shared_problems())
        self.loaded.clear()
        layer.weight_scale_fp32 = layer.weight_scale.data.float().flatten()

    def _part_problems(self, part: str) -> list[str]:
        problems = []
        if (scale := self.loaded.get(f"{part}.weight_scale")) is not None:
            problems += values.scale_problems(f"{part}.weight_scale", scale)
        if (offset := self.loaded.get(f"{part}.weight_offset")) is not None:
            problems += values.weight_offset_problems(f"{part}.weight_offset", offset)
        return problems

    def _shared_problems(self) -> list[str]:
        return []

    def apply(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """y [..., out on this rank] of x [..., in on this rank], in the model's dtype."""
        out = self.multiply(layer, x.reshape(-1, x.shape[-1]), bias)
        return out.to(self.params_dtype).reshape(*x.shape[:-1], -1)

    def multiply(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """float32 [tokens, out] of x [tokens, in]."""
        raise NotImplementedError


class DynamicLinearMethod(_Int8LinearMethod):
    """W8A8_DYNAMIC: activations quantized per token while serving."""

    def multiply(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """`(q @ weight.T) * weight_scale * token_scale + bias`."""
        q, scale = quantize_per_token(x)
        out = dynamic_linear(q, scale, layer.weight, layer.weight_scale_fp32)
        return out if bias is None else out + bias.float()


class StaticLinearMethod(_Int8LinearMethod):
    """W8A8: one activation scale and offset per layer, from calibration.

    Args:
        prefix: vLLM's name of the layer.
        ledger: of this load.
        float_bias_possible: whether quant_bias may contain a bias of the float model.
    """

    fields = required_tensors(STATIC)

    def __init__(self, prefix: str, ledger: LoadLedger, *, float_bias_possible: bool) -> None:
        super().__init__(prefix, ledger)
        self.float_bias_possible = float_bias_possible

    def parameters(self, out: int, in_: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """As the base class, and the activation's quantization."""
        return {
            **super().parameters(out, in_, dtype),
            "input_scale": torch.full((1,), torch.nan, dtype=dtype),
            "input_offset": torch.zeros(1, dtype=torch.int8),
            "quant_bias": torch.zeros(out, dtype=torch.int32),
            "deq_scale": torch.full((out,), torch.nan, dtype=torch.float32),
        }

    def _part_problems(self, part: str) -> list[str]:
        def get(field: str) -> torch.Tensor:
            return self.loaded[f"{part}.{field}"]

        problems = super()._part_problems(part)
        problems += values.scale_problems(f"{part}.input_scale", get("input_scale"))
        problems += values.scale_problems(f"{part}.deq_scale", get("deq_scale"))
        problems += values.input_offset_problems(f"{part}.input_offset", get("input_offset"))
        if problems:  # the identities would only repeat them
            return problems
        if f"{part}.weight_scale" in self.loaded:
            problems += values.deq_scale_problems(
                f"{part}.deq_scale", get("deq_scale"), get("input_scale"), get("weight_scale")
            )
        if not self.float_bias_possible:
            problems += values.quant_bias_problems(
                f"{part}.quant_bias", get("quant_bias"), get("input_offset"), get("weight_sum")
            )
        return problems

    def _shared_problems(self) -> list[str]:
        return [
            problem
            for field in OF_THE_INPUT
            for problem in values.shared_value_problems(
                {f"{part}.{field}": self.loaded[f"{part}.{field}"] for part in self.parts}
            )
        ]

    def _bias_problems(self, layer: torch.nn.Module) -> list[str]:
        """Of a layer with a bias (column parallel: this rank's rows); vLLM's own loader has loaded it."""
        if layer.bias is None or not all(self.ledger.holds(f"{part}.bias") for part in self.parts):
            return []
        return values.folded_bias_problems(
            f"{' and '.join(self.parts)}: quant_bias",
            layer.quant_bias,
            layer.bias,
            layer.deq_scale,
            layer.input_offset,
            layer.weight.sum(1, dtype=torch.int64),
        )

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """As the base class; the reciprocal is rounded to the model's dtype, as in vllm-ascend."""
        super().process_weights_after_loading(layer)
        self.ledger.fail(self._bias_problems(layer))
        layer.input_scale_reciprocal = 1 / layer.input_scale.data
        layer.input_offset_float = layer.input_offset.data.to(layer.input_scale.dtype)

    def multiply(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """`(q @ weight.T + quant_bias) * deq_scale`, quant_bias only on the first rank of a split sum.

        quant_bias contains the float bias, so `bias` is left out, as vllm-ascend does.
        """
        q = quantize_static(x, layer.input_scale_reciprocal, layer.input_offset_float)
        first = not isinstance(layer, RowParallelLinear) or layer.tp_rank == 0
        return static_linear(q, layer.weight, layer.quant_bias if first else None, layer.deq_scale)


def _copy(param: torch.nn.Parameter, loaded: torch.Tensor, *_shard: str | int) -> None:
    param.data.copy_(loaded)
