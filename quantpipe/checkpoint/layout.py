"""How a checkpoint is cut over devices, and how many bytes each one then holds.

The rules are vLLM's (0.23): q heads are divided by tp; KV heads are divided, or replicated where there are
fewer of them than ranks; the vocabulary is padded to 64 rows and divided; with expert parallel each of the
dp * tp devices holds whole experts, without it every expert's width is divided over all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from quantpipe.checkpoint.dims import Dims

GIB = 1 << 30
_DEFAULT_UTILIZATION = 0.9
_DEFAULT_BATCHED_TOKENS = 8192
_DEFAULT_SEQUENCES = 256


@dataclass(frozen=True)
class Layout:
    """How a server is laid out, in vLLM's terms.

    Attributes:
        device_memory: bytes of one device; None leaves the memory check out.
        redundant_experts: EPLB's copies.
        fused_mc2: vllm-ascend's enable_fused_mc2.
    """

    tp: int = 1
    dp: int = 1
    ep: bool = False
    device_memory: int | None = None
    utilization: float = _DEFAULT_UTILIZATION
    max_model_len: int | None = None
    max_num_seqs: int = _DEFAULT_SEQUENCES
    max_num_batched_tokens: int = _DEFAULT_BATCHED_TOKENS
    redundant_experts: int = 0
    fused_mc2: bool = False

    @property
    def devices(self) -> int:
        """Devices in all: the ranks among which experts are divided."""
        return self.tp * self.dp


def rule_problems(dims: Dims, layout: Layout) -> Iterator[tuple[str, str]]:
    """The rules that the layout breaks: what, and the numbers."""
    tp, devices = layout.tp, layout.devices
    if dims.heads % tp:
        yield "attention heads cannot be divided by the tensor parallel size", f"{dims.heads} heads, tp {tp}"
    if dims.kv_heads >= tp and dims.kv_heads % tp:
        yield "KV heads cannot be divided by the tensor parallel size", f"{dims.kv_heads} KV heads, tp {tp}"
    if dims.kv_heads < tp and tp % dims.kv_heads:
        yield "KV heads cannot be replicated evenly", f"tp {tp} is no multiple of {dims.kv_heads} KV heads"
    if dims.experts and not layout.ep and dims.moe_intermediate % devices:
        yield (
            "the width of the experts cannot be divided without expert parallel",
            f"moe_intermediate_size {dims.moe_intermediate}, {devices} devices",
        )
    if not all(dims.sparse(layer) for layer in range(dims.layers)) and dims.intermediate % tp:
        yield "the width of the MLP cannot be divided", f"intermediate_size {dims.intermediate}, tp {tp}"
    if layout.redundant_experts and (dims.experts + layout.redundant_experts) % devices:
        yield (
            "experts and EPLB's redundant experts cannot be divided over the devices",
            f"{dims.experts} + {layout.redundant_experts}, {devices} devices",
        )
    if layout.ep and dims.experts and dims.experts < devices:
        yield "there are fewer experts than devices", f"{dims.experts} experts, {devices} devices"


def layout_of_serve(serve: Any, *, device_memory: int | None) -> Layout:
    """The layout of a recipe's serve profile (`quantpipe.recipe.model.Serve`)."""
    additional = serve.additional_config
    eplb = additional.get("eplb_config")
    redundant = eplb.get("num_redundant_experts", 0) if isinstance(eplb, dict) else 0
    return Layout(
        tp=serve.tensor_parallel_size,
        dp=serve.data_parallel_size,
        ep=serve.enable_expert_parallel,
        device_memory=device_memory,
        utilization=serve.gpu_memory_utilization or _DEFAULT_UTILIZATION,
        max_model_len=serve.max_model_len,
        max_num_seqs=serve.max_num_seqs or _DEFAULT_SEQUENCES,
        max_num_batched_tokens=serve.max_num_batched_tokens or _DEFAULT_BATCHED_TOKENS,
        redundant_experts=redundant if isinstance(redundant, int) else 0,
        fused_mc2=bool(additional.get("enable_fused_mc2")),
    )
