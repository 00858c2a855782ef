"""Receipts for tests: what matters is given, the rest is filled in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from quantpipe.store.manifest import FileEntry, Manifest
from quantpipe.store.outputs import (
    FetchFigures,
    FetchOutput,
    PublishFigures,
    PublishOutput,
    QuantizeFigures,
    QuantizeOutput,
    SmokeFigures,
    VerifyFigures,
    VerifyOutput,
)
from quantpipe.store.quality import LayerQuality, LinearQuality, Quality
from quantpipe.store.receipt import FetchReceipt, PublishReceipt, QuantizeReceipt, Receipt, VerifyReceipt

STARTED = "2026-01-01T00:00:00Z"
MANIFEST = Manifest((FileEntry("config.json", 2, "0" * 64),))
QUANTIZE_FIGURES = QuantizeFigures(
    bytes=2,
    source_bytes=4,
    files=1,
    layers=3,
    worker_seconds=1.0,
    versions={"msmodelslim": "26.1.0"},
    threads=1,
    resumed_units=0,
)
QUALITY = Quality(
    kl_mean=0.02,
    kl_p99=0.2,
    top1=0.97,
    perplexity_bf16=10.0,
    perplexity_quantized=10.5,
    tokens=3000,
    dataset="d" * 64,
    layers=(LayerQuality(0, 34.0, 0.9998, 34.0, 0.9998), LayerQuality(1, 31.0, 0.9997, 29.0, 0.9995)),
    worst_linears=(LinearQuality("model.layers.1.self_attn.o_proj", "W8A8", 20.5, 0.01, 0.002, 3016, 500),),
    unreached_experts=("model.layers.1.mlp.experts.7",),
    file="runs/tiny/1/quality.json",
)
SMOKE_FIGURES = SmokeFigures(
    launcher="cpu",
    command=("vllm", "serve"),
    model={"id": "tiny"},
    ready_seconds=1.5,
    effective_quantization=None,
    probes=({"prompt": "One", "matches": True},),
    matched=1,
    known=1,
    checks=(),
    bench=None,
)


def fetch_receipt(
    snapshot: str = "sources/local/a--b/c", *, commit: str = "c", manifest: str = "m", key: str = "k"
) -> FetchReceipt:
    return Receipt(
        "fetch", key, FetchOutput(snapshot, commit, manifest), FetchFigures(1, 2, 2, 0.1, 0, ()), STARTED, 1.0
    )


def quantize_receipt(
    checkpoint: str = "runs/tiny/1/staging/checkpoint",
    manifest: Manifest = MANIFEST,
    *,
    key: str = "k",
    **figures: Any,
) -> QuantizeReceipt:
    output = QuantizeOutput(checkpoint, manifest)
    return Receipt("quantize", key, output, replace(QUANTIZE_FIGURES, **figures), STARTED, 1.0, "3 layers")


def verify_receipt(digest: str, checkpoint: str | None = None, *, key: str = "k") -> VerifyReceipt:
    output = VerifyOutput(checkpoint or f"models/tiny/{digest}", digest)
    return Receipt("verify", key, output, VerifyFigures(2, 1, {}, {}), STARTED, 1.0)


def publish_receipt(digest: str, *, keep: int = 2, key: str = "k") -> PublishReceipt:
    return Receipt("publish", key, PublishOutput(digest), PublishFigures(None, keep), STARTED, 1.0)
