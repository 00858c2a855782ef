"""The cost of quantizing a model, from its config.json: memory, products, bytes, and an estimate of the time.

The counts follow from the shapes. The rates are assumptions, named here and in docs/performance.md; on a CPU
they were measured with benchmarks/bench_quantize.py, on an NPU they are conservative guesses, since none was
available.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantpipe.checkpoint.dims import read_dims
from quantpipe.quantize.worker.protocol import KEPT_EVERY

CPU_OPERATIONS = 150e9
"""A second, one core-pair's mixture of float32 and bf16 products. Hosts with many cores are faster."""

NPU_OPERATIONS = 30e12
"""A second: a tenth of an Atlas A2's bf16 peak, since the rotation is in float32."""

READ, WRITE, HASH = 2e9, 1e9, 1.5e9
"""Bytes a second: shared storage, and SHA-256 on one core. Reading runs in the background."""

SECONDS_PER_LINEAR = 0.003
"""The host's own work per linear: launches of small kernels, Python, tensors to write."""

SEARCH_PAIRS = 42
TOKENS_PER_PROMPT = 250
"""The prompts of calib_data have about 900 characters, 3.6 characters a token."""

PASSES_TO_MEASURE = 2.25
"""Of a held-out prompt: the BF16 layer, the quantized one, and a quarter of the prompts again."""

BASE_MEMORY = 1 << 30
HELD_LAYERS = 4
"""Peak memory in layers: the layer in progress in two forms, the next one, and the one being written."""


@dataclass(frozen=True)
class Estimate:
    """What engine `streaming` needs.

    Attributes:
        layer_bytes: bf16 bytes of the largest decoder layer.
        memory_bytes: host memory at the peak.
        operations: floating point operations in matrix products.
        read_bytes, written_bytes: of tensors.
        boundary_bytes: on disk at the end: what a later run resumes from, on top of the checkpoint.
        linears: how many linears are quantized.
        seconds: wall time, under the assumptions of this module.
    """

    layer_bytes: int
    memory_bytes: int
    operations: float
    read_bytes: int
    written_bytes: int
    boundary_bytes: int
    linears: int
    seconds: float


def estimate(
    config: Mapping[str, Any],
    *,
    prompts: int,
    datasets: int,
    rotate: bool,
    smooth: bool,
    npu: bool,
    held_out: int = 0,
) -> Estimate | None:
    """Count for a Qwen3 or Qwen3-MoE model; None where config.json lacks a size.

    Args:
        prompts: of the calibration set.
        datasets: 2 where smoothing has its own set, which also runs through the layers; otherwise 1.
        held_out: prompts with which the quality is measured.
    """
    dims = read_dims(config, partial=True)
    sparse_layers = dims.sparse_layers
    dense_layers = dims.layers - sparse_layers
    needed = (dims.hidden, dims.layers, dims.vocab, dims.heads, dims.kv_heads, dims.head_dim)
    widths = [dims.moe_intermediate] * bool(sparse_layers) + [dims.intermediate] * bool(dense_layers)
    if not all((*needed, *widths)):
        return None
    hidden, layers = dims.hidden, dims.layers
    after_norm = hidden * dims.head_dim * (dims.heads + 2 * dims.kv_heads)
    attention = after_norm + hidden * dims.head_dim * dims.heads
    expert, mlp = 3 * hidden * dims.moe_intermediate, 3 * hidden * dims.intermediate
    sparse, dense = expert * dims.experts + hidden * dims.experts, mlp
    layer = attention + max(sparse * bool(sparse_layers), dense * bool(dense_layers))
    weights = layers * attention + sparse_layers * sparse + dense_layers * dense
    used = layers * attention + sparse_layers * expert * dims.active_experts + dense_layers * dense
    tokens = prompts * TOKENS_PER_PROMPT
    operations = 2.0 * (tokens * datasets + held_out * TOKENS_PER_PROMPT * PASSES_TO_MEASURE) * used
    operations += 2.0 * weights * hidden if rotate else 0
    operations += layers * 2.0 * SEARCH_PAIRS * tokens * after_norm if smooth else 0
    embedding = dims.vocab * hidden
    read, written = 2 * (weights + 2 * embedding), weights + 4 * embedding
    linears = layers * 4 + 3 * (sparse_layers * dims.experts + dense_layers)
    computing = operations / (NPU_OPERATIONS if npu else CPU_OPERATIONS) + linears * SECONDS_PER_LINEAR
    seconds = max(computing, read / READ) + written / min(WRITE, HASH)
    largest = max(2 * layer, 2 * 2 * embedding)  # the embedding is rotated in float32
    memory = BASE_MEMORY + (HELD_LAYERS + bool(held_out)) * largest  # and the float weights to compare with
    # bf16, of each token that goes through the layers; besides those that stay, the last and the next one.
    boundaries = 2 * tokens * datasets * hidden * (layers // KEPT_EVERY + 2)
    time = float(math.ceil(seconds))
    return Estimate(2 * layer, memory, operations, read, written, boundaries, linears, time)
