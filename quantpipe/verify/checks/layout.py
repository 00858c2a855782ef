"""Checks of a parallel layout: A10 and C2."""

from __future__ import annotations

from collections.abc import Iterator

from quantpipe.checkpoint.layout import indivisible
from quantpipe.text import human_bytes
from quantpipe.verify.checks.needs import LAYOUT, MEMORY, Placed
from quantpipe.verify.checks.registry import check
from quantpipe.verify.finding import Defect, Severity
from quantpipe.verify.memory import Memory


@check(
    "A10",
    needs=LAYOUT,
    effect="the server stops at start-up: a size is not divisible by the number of ranks",
    fix="choose sizes that divide evenly: tensor_parallel_size, data_parallel_size, enable_expert_parallel, "
    "EPLB's redundancy",
)
def divisible(placed: Placed) -> Iterator[Defect]:
    """Heads, widths and experts are divisible by the tensor, data and expert parallel sizes."""
    model, layout = placed
    for text, numbers in indivisible(model.dims, layout):
        yield Defect("layout", text, numbers)


@check(
    "C2",
    needs=MEMORY,
    effect="the server runs out of memory while loading, or refuses max_model_len: the KV cache is too small",
    fix="more devices, expert parallel, a larger gpu_memory_utilization or a smaller max_model_len",
)
def fits(memory: Memory) -> Iterator[Defect]:
    """Weights and KV cache fit the devices."""
    detail = f"{human_bytes(memory.weights)} of weights in {human_bytes(memory.budget)} per device"
    if memory.weights > memory.budget:
        yield Defect("layout", "the weights do not fit a device", detail)
    elif memory.verdict == "not":
        rest = f"{detail}, about {max(0, memory.kv_tokens):,} tokens of KV cache for {memory.max_model_len:,}"
        text = "too little memory for one sequence of max_model_len"
        yield Defect("layout", text, rest, Severity.WARNING)
    elif memory.verdict == "tight":
        rest = f"{detail}, about {memory.kv_tokens:,} tokens of KV cache"
        yield Defect("layout", "memory for hardly more than one full sequence", rest, Severity.WARNING)
