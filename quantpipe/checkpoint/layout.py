"""How a checkpoint is cut over devices, and how many bytes each one then holds.

The rules are vLLM's (0.23): q heads are divided by tp; KV heads are divided, or replicated where there are
fewer of them than ranks; the vocabulary is padded to 64 rows and divided; with expert parallel each of the
dp * tp devices holds whole experts, without it every expert's width is divided over all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantpipe.checkpoint.dims import Dims
from quantpipe.checkpoint.modules import Module

if TYPE_CHECKING:
    from quantpipe.checkpoint.checkpoint import Checkpoint

GIB = 1 << 30
_VOCAB_PADDING = 64
_DEFAULT_UTILIZATION = 0.9
_DEFAULT_BATCHED_TOKENS = 8192
_DEFAULT_SEQUENCES = 256
_RUNTIME_BYTES = 2 * GIB
"""For the runtime, communication buffers and captured graphs: an assumption, shown in the report."""

_ROW_PARALLEL = ("o_proj", "down_proj")
_CUT_BY_ROWS = ("weight", "scale_bias")
"""What is cut of a row-parallel linear: what it has per output (quant_bias, deq_scale) stays whole."""


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


@dataclass(frozen=True)
class Memory:
    """Bytes of the fullest device.

    Attributes:
        weights: after loading.
        reserve: allowance for the runtime and activations.
        kv_per_token: KV cache of one token.
        kv_tokens: tokens that the rest holds; negative where not even the weights fit.
        verdict: `fits`, `tight` (fewer than two sequences of full length) or `not`.
    """

    budget: int
    weights: int
    reserve: int
    kv_per_token: int
    kv_tokens: int
    max_model_len: int
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """The figures as a JSON object."""
        return {
            "budget_bytes": self.budget,
            "weight_bytes": self.weights,
            "reserve_bytes": self.reserve,
            "kv_bytes_per_token": self.kv_per_token,
            "kv_tokens": self.kv_tokens,
            "max_model_len": self.max_model_len,
            "verdict": self.verdict,
        }


def estimate(checkpoint: Checkpoint, layout: Layout) -> Memory:
    """The memory of the fullest device under `layout`, which names the device's memory."""
    assert layout.device_memory is not None
    dims = checkpoint.dims
    weights = max(rank_bytes(checkpoint, layout))
    per_token = 2 * dims.layers * max(1, dims.kv_heads // layout.tp) * dims.head_dim * 2
    activations = layout.max_num_batched_tokens * _activation_bytes(dims, layout)
    logits = 2 * 4 * layout.max_num_seqs * dims.vocab
    reserve = _RUNTIME_BYTES + activations + logits
    budget = int(layout.device_memory * layout.utilization)
    tokens = (budget - weights - reserve) // per_token
    length = layout.max_model_len or dims.max_positions
    verdict = "not" if tokens < length else "tight" if tokens < 2 * length else "fits"
    return Memory(budget, weights, reserve, per_token, tokens, length, verdict)


def _activation_bytes(dims: Dims, layout: Layout) -> int:
    """Bytes per token in flight: residual stream, q/k/v, widest MLP, two bytes a number, kept twice."""
    query = dims.heads // max(1, min(layout.tp, dims.heads)) * dims.head_dim
    widest = max(dims.intermediate, 4 * dims.moe_intermediate)
    return 2 * 2 * (4 * dims.hidden + 3 * query + widest)


def rank_bytes(checkpoint: Checkpoint, layout: Layout) -> list[int]:
    """Bytes of the weights on each of the dp * tp devices."""
    dims = checkpoint.dims
    common, cut, whole = 0, 0, 0
    for name in checkpoint.types:
        module = checkpoint.modules[name]
        for suffix in checkpoint.specs_of(name) or {}:
            tensor = checkpoint.tensors.get(f"{name}.{suffix}")
            if tensor is None:
                continue
            stays = module.leaf in _ROW_PARALLEL and suffix not in _CUT_BY_ROWS
            if module.kind != "expert":
                common += tensor.size if stays else _share(dims, module, tensor.size, layout.tp)
            elif stays:
                whole += tensor.size
            else:
                cut += tensor.size
    if not dims.experts or not layout.ep:
        return [common + whole + _ceil(cut, layout.devices)] * layout.devices
    each = _ceil(cut + whole, dims.experts)
    placed = dims.experts + layout.redundant_experts
    return [common + each * _experts_on(rank, placed, layout.devices) for rank in range(layout.devices)]


def _experts_on(rank: int, experts: int, devices: int) -> int:
    """Contiguous placement: the first ranks hold one more where it does not divide."""
    return experts // devices + (rank < experts % devices)


def _share(dims: Dims, module: Module, size: int, tp: int) -> int:
    """The bytes of a tensor on one rank."""
    if module.kind in ("norm", "router"):
        return size
    if module.kind in ("embed", "head"):
        padded = _ceil(dims.vocab, _VOCAB_PADDING) * _VOCAB_PADDING
        return _ceil(size * padded // dims.vocab, tp)
    if module.leaf in ("k_proj", "v_proj"):
        return _ceil(size * max(1, dims.kv_heads // tp), dims.kv_heads)
    return _ceil(size, tp)


def _ceil(amount: int, parts: int) -> int:
    return -(-amount // parts)


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
