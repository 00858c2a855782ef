"""The experts: W8A8_DYNAMIC.

Order of roundings as in vllm-ascend's `fused_experts` for W8A8_DYNAMIC (`quantization/methods/
w8a8_dynamic.py`, `ops/fused_moe/`): tokens are quantized once, gate and up are dequantized and
joined by SwiGLU in float32, the result is quantized again, down is dequantized to the model's
dtype, and the routing weights, in that dtype, scale the sum.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from vllm.model_executor.layers.fused_moe import FusedMoEMethodBase, FusedMoeWeightScaleSupported
from vllm.model_executor.utils import set_weight_attrs

from quantpipe.checkpoint.arithmetic import dynamic_linear, quantize_per_token
from quantpipe.checkpoint.modules import EXPERT_PARTS
from quantpipe.checkpoint.tensors import DYNAMIC, required_tensors

from . import values
from .ledger import LoadLedger

# vLLM's names of the parts of an expert.
_SHARDS = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
_FIELDS = required_tensors(DYNAMIC)

# Before vLLM 0.32 its router calls a CUDA operation on every platform, unless the method routes itself.
_CPU_ROUTER = "vllm.model_executor.layers.fused_moe.router.cpu_router"
_ROUTES_ITSELF = importlib.util.find_spec(_CPU_ROUTER) is None


class DynamicMoEMethod(FusedMoEMethodBase):  # type: ignore[misc]
    """W8A8_DYNAMIC experts, with or without tensor or expert parallelism.

    Args:
        moe_config: vLLM's FusedMoEConfig of the layer.
        prefix: vLLM's name of the experts, also the checkpoint's (`model.layers.0.mlp.experts`).
        ledger: of this load.
    """

    def __init__(self, moe_config: Any, prefix: str, ledger: LoadLedger) -> None:
        super().__init__(moe_config)
        self.prefix = prefix
        self.ledger = ledger
        self.problems: list[str] = []

    def create_weights(
        self,
        layer: torch.nn.Module,
        num_experts: int,
        hidden_size: int,
        intermediate_size_per_partition: int,
        params_dtype: torch.dtype,
        **extra_weight_attrs: Any,
    ) -> None:
        """Register w13 (gate over up) and w2 (down) of this rank's experts, as vllm-ascend names them."""
        loader = extra_weight_attrs.pop("weight_loader")
        channel = {"quant_method": FusedMoeWeightScaleSupported.CHANNEL.value}
        shapes = {
            "w13": (2 * intermediate_size_per_partition, hidden_size),
            "w2": (hidden_size, intermediate_size_per_partition),
        }
        for stem, (out, in_) in shapes.items():
            parameters = {
                "weight": torch.zeros(num_experts, out, in_, dtype=torch.int8),
                "weight_scale": torch.full((num_experts, out, 1), torch.nan, dtype=params_dtype),
                "weight_offset": torch.zeros(num_experts, out, 1, dtype=params_dtype),
            }
            for field, data in parameters.items():
                param = torch.nn.Parameter(data, requires_grad=False)
                attrs = {**extra_weight_attrs, "weight_loader": self._recording(field, loader)}
                set_weight_attrs(param, attrs if field == "weight" else {**attrs, **channel})
                layer.register_parameter(f"{stem}_{field}", param)

    def _recording(self, field: str, loader: Callable[..., Any]) -> Callable[..., Any]:
        """A weight loader that checks and records tensors, unless another rank has the expert."""

        def load(
            param: torch.nn.Parameter,
            loaded_weight: torch.Tensor,
            weight_name: str,
            shard_id: str,
            expert_id: int,
            return_success: bool = False,
        ) -> bool | None:
            taken = loader(
                param=param,
                loaded_weight=loaded_weight,
                weight_name=weight_name,
                shard_id=shard_id,
                expert_id=expert_id,
                return_success=True,
            )
            name = f"{self.prefix}.{expert_id}.{_SHARDS[shard_id]}.{field}"
            if taken:
                self.ledger.arrive(name)
                self.problems += _value_problems(field, name, loaded_weight)
            return bool(taken) if return_success else None

        return load

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Check what was loaded, then prepare for `apply`.

        Raises:
            CheckpointLoadError: a tensor of an expert of this rank is missing or its values are wrong.
        """
        experts = range(layer.global_num_experts)
        if layer.expert_map is not None:
            experts = (layer.expert_map >= 0).nonzero().flatten().tolist()
        self.ledger.check_arrived(
            f"{self.prefix}.{expert}.{part}.{field}"
            for expert in experts
            for part in EXPERT_PARTS
            for field in _FIELDS
        )
        self.ledger.fail(self.problems)
        layer.w13_weight_scale_fp32 = layer.w13_weight_scale.data.float().squeeze(-1)
        layer.w2_weight_scale_fp32 = layer.w2_weight_scale.data.float().squeeze(-1)

    @property
    def is_monolithic(self) -> bool:
        """Whether vLLM leaves the routing to this method."""
        return _ROUTES_ITSELF

    def get_fused_moe_quant_config(self, layer: torch.nn.Module) -> None:
        """None: nothing of vLLM's own kernels is used."""
        return

    def maybe_make_prepare_finalize(self, routing_tables: Any = None) -> None:
        """None: keeps vLLM's modular kernels out."""
        return

    def apply_monolithic(
        self, layer: torch.nn.Module, x: torch.Tensor, router_logits: torch.Tensor, input_ids: Any = None
    ) -> torch.Tensor:
        """Route by softmax over all experts and top-k, as Qwen3-MoE does, then `apply`."""
        if layer.scoring_func != "softmax" or layer.use_grouped_topk:
            raise NotImplementedError("only the softmax top-k routing of Qwen3-MoE is rehearsed")
        topk_weights, topk_ids = torch.softmax(router_logits.float(), -1).topk(layer.top_k, -1)
        if layer.renormalize:
            topk_weights = topk_weights / topk_weights.sum(-1, keepdim=True)
        return self.apply(layer, x, topk_weights, topk_ids)

    def apply(
        self,
        layer: torch.nn.Module,
        x: torch.Tensor,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
        shared_experts: Any = None,
        shared_experts_input: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The part of the sum over experts that this rank holds.

        Args:
            layer: vLLM's RoutedExperts.
            x: [tokens, hidden] in the model's dtype.
            topk_weights: float [tokens, k].
            topk_ids: integer [tokens, k], numbers of experts in the whole model.
            shared_experts: not used: Qwen3-MoE has none.
            shared_experts_input: not used.
        """
        local = topk_ids.long()
        if layer.expert_map is not None:
            local = layer.expert_map.long()[local]  # -1: another rank's
        q, scale = quantize_per_token(x)
        weights = topk_weights.to(x.dtype).float()
        out = torch.zeros(x.shape, dtype=torch.float32)
        for expert in local.unique().tolist():
            if expert < 0:
                continue
            token, slot = (local == expert).nonzero(as_tuple=True)
            y = _expert(layer, expert, q[token], scale[token]).to(x.dtype)
            out.index_add_(0, token, y.float() * weights[token, slot, None])
        return out.to(x.dtype)


def _expert(layer: torch.nn.Module, expert: int, q: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """float32 [tokens, hidden] of int8 q [tokens, hidden] and its scales [tokens, 1]."""
    gate_up = dynamic_linear(q, scale, layer.w13_weight[expert], layer.w13_weight_scale_fp32[expert])
    gate, up = gate_up.chunk(2, -1)
    q, scale = quantize_per_token(torch.nn.functional.silu(gate) * up)
    return dynamic_linear(q, scale, layer.w2_weight[expert], layer.w2_weight_scale_fp32[expert])


def _value_problems(field: str, name: str, tensor: torch.Tensor) -> list[str]:
    if field == "weight_scale":
        return values.scale_problems(name, tensor)
    if field == "weight_offset":
        return values.weight_offset_problems(name, tensor)
    return []
