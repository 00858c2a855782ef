"""How a model is divided over devices, whether it can be, and how many bytes each one then holds.

The rules are vLLM's (0.23): q heads are divided by tp; KV heads are divided, or replicated where there are
fewer of them than ranks; with expert parallel each of the dp * tp devices holds whole experts, without it
every expert's width is divided over all of them (`FusedMoEParallelConfig.make`, which flattens tp across dp),
while all else is held once in each dp rank. Used by verify's checks and by the smoke rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

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
        """Number of devices: the ranks that share the experts."""
        return self.tp * self.dp


class Indivisible(NamedTuple):
    """Something that a layout cannot divide: what, in the same words for every model, and the numbers."""

    text: str
    numbers: str


def indivisible(dims: Dims, layout: Layout) -> Iterator[Indivisible]:
    """Everything that the layout cannot divide: a server with this layout stops at start-up."""
    yield from _indivisible_heads(dims, layout.tp)
    if dims.sparse_layers < dims.layers and dims.intermediate % layout.tp:
        yield Indivisible(
            "the MLP width is not divisible by the tensor parallel size",
            f"intermediate_size {dims.intermediate}, tp {layout.tp}",
        )
    if dims.experts:
        yield from _indivisible_experts(dims, layout)


def _indivisible_heads(dims: Dims, tp: int) -> Iterator[Indivisible]:
    if dims.heads % tp:
        yield Indivisible(
            "attention heads are not divisible by the tensor parallel size", f"{dims.heads} heads, tp {tp}"
        )
    if dims.kv_heads >= tp and dims.kv_heads % tp:
        yield Indivisible(
            "KV heads are not divisible by the tensor parallel size", f"{dims.kv_heads} KV heads, tp {tp}"
        )
    if dims.kv_heads < tp and tp % dims.kv_heads:
        yield Indivisible(
            "KV heads cannot be replicated evenly", f"tp {tp} is not a multiple of {dims.kv_heads} KV heads"
        )


def _indivisible_experts(dims: Dims, layout: Layout) -> Iterator[Indivisible]:
    devices = layout.devices
    if not layout.ep and dims.moe_intermediate % devices:
        yield Indivisible(
            "the expert width is not divisible by the number of devices, and expert parallel is off",
            f"moe_intermediate_size {dims.moe_intermediate}, {devices} devices",
        )
    if layout.redundant_experts and (dims.experts + layout.redundant_experts) % devices:
        yield Indivisible(
            "experts plus EPLB's redundant experts are not divisible by the number of devices",
            f"{dims.experts} + {layout.redundant_experts}, {devices} devices",
        )
    if layout.ep and dims.experts < devices:
        yield Indivisible(
            "there are fewer experts than devices", f"{dims.experts} experts, {devices} devices"
        )


def device_bytes(dims: Dims | None, layout: Layout, weight_bytes: int) -> float:
    """Bytes of weights on one device, to a few percent: all devices share the experts, tp all else.

    For an existing checkpoint, `quantpipe.verify.memory` computes it from the tensors, with replicas.

    Args:
        dims: None where they are not known; then nothing counts as an expert.
        weight_bytes: of the quantized checkpoint.
    """
    experts = min(dims.expert_weights, weight_bytes) if dims is not None else 0
    return experts / layout.devices + (weight_bytes - experts) / layout.tp


class ServeProfile(Protocol):
    """What of a serve profile (`quantpipe.recipe.serve.Serve`) makes a layout, in vLLM's terms."""

    @property
    def tensor_parallel_size(self) -> int: ...  # noqa: D102
    @property
    def data_parallel_size(self) -> int: ...  # noqa: D102
    @property
    def enable_expert_parallel(self) -> bool: ...  # noqa: D102
    @property
    def gpu_memory_utilization(self) -> float | None: ...  # noqa: D102
    @property
    def max_model_len(self) -> int | None: ...  # noqa: D102
    @property
    def max_num_seqs(self) -> int | None: ...  # noqa: D102
    @property
    def max_num_batched_tokens(self) -> int | None: ...  # noqa: D102
    @property
    def additional_config(self) -> dict[str, Any]: ...  # noqa: D102


def layout_of_serve(serve: ServeProfile, *, device_memory: int | None = None) -> Layout:
    """The layout of a recipe's serve profile."""
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
