"""`verify_checkpoint`: read a checkpoint, run the checks, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from quantpipe.checkpoint.checkpoint import Checkpoint, open_checkpoint
from quantpipe.checkpoint.layout import Layout, estimate, rule_problems
from quantpipe.errors import VerificationError
from quantpipe.store import manifest as manifests
from quantpipe.store.manifest import Manifest, OnBytes
from quantpipe.store.store import PROVENANCE
from quantpipe.verify.checks.registry import NEEDS, Check, all_checks
from quantpipe.verify.fidelity.compare import compare
from quantpipe.verify.finding import Finding, Severity
from quantpipe.verify.report import Report
from quantpipe.verify.values import read_values

_ORDER = list(Severity)


def verify_checkpoint(
    path: Path,
    *,
    target: str = "0.23.0",
    deep: bool = False,
    against: Path | None = None,
    layout: Layout | None = None,
    jobs: int = 2,
    on_bytes: OnBytes | None = None,
    manifest: Manifest | None = None,
    sealing: bool = False,
) -> Report:
    """Run every check that can run.

    Args:
        target: the vllm-ascend version that has to load it.
        deep: read all values; without it only headers and JSON files are read.
        against: directory of the BF16 source: compare the weights with it.
        layout: how it will be served.
        jobs: shards read at a time.
        on_bytes: told how many more bytes of the checkpoint were read.
        manifest: compare the files with it; with `deep` in the same pass over the shards.
        sealing: the directory will be sealed: its file modes do not count, that sets them.

    Raises:
        VerificationError: there is no such directory, or a file cannot be read to its end.
    """
    try:
        checkpoint = open_checkpoint(path, target=target, layout=layout, jobs=jobs)
        checkpoint.sealing = sealing
        _look_deeper(checkpoint, deep=deep, against=against, jobs=jobs, on_bytes=on_bytes, manifest=manifest)
    except OSError as error:
        raise VerificationError(
            f"the checkpoint cannot be read: {error.strerror}",
            where=str(error.filename or path),
            hint="give a directory with *.safetensors and quant_model_description.json that you may read",
        ) from error
    with np.errstate(all="ignore"):  # what overflows is found by a check; numpy need not warn of it
        return _report(checkpoint)


def _look_deeper(
    checkpoint: Checkpoint,
    *,
    deep: bool,
    against: Path | None,
    jobs: int,
    on_bytes: OnBytes | None,
    manifest: Manifest | None,
) -> None:
    hashed: dict[str, str] = {}
    judged = checkpoint.quantized and checkpoint.config_dims is not None
    if deep and judged:
        hashes = manifest is not None
        checkpoint.values = read_values(checkpoint, jobs=jobs, hashes=hashes, on_bytes=on_bytes)
        hashed = checkpoint.values.sha256
    if against is not None and judged:
        with np.errstate(all="ignore"):
            checkpoint.fidelity = compare(checkpoint, against, jobs=jobs)
    if manifest is not None:
        checkpoint.mismatches = manifests.check(
            checkpoint.path, manifest, jobs=jobs, exclude=(PROVENANCE,), on_bytes=on_bytes, hashed=hashed
        )


def _report(checkpoint: Checkpoint) -> Report:
    findings: list[Finding] = []
    passed: list[str] = []
    skipped: dict[str, str] = {}
    for check in all_checks():
        if reason := _missing_need(check, checkpoint):
            skipped[check.id] = reason
        elif found := check.findings(checkpoint):
            findings += found
        else:
            passed.append(check.id)
    # Changed bytes come first: they may be the cause of all the rest.
    findings.sort(key=lambda finding: (_ORDER.index(finding.severity), finding.id != "C1"))
    return Report(
        checkpoint.path, checkpoint.target, tuple(findings), tuple(passed), skipped, _figures(checkpoint)
    )


def _missing_need(check: Check, checkpoint: Checkpoint) -> str | None:
    """Why a check cannot run; None where it can. Without a description only A1 has anything to say."""
    model = checkpoint.quantized and checkpoint.config_dims is not None
    there = {
        "files": checkpoint.quantized or check.id == "A1",
        "model": model,
        "deep": checkpoint.values is not None,
        "source": checkpoint.fidelity is not None,
        "layout": model and checkpoint.layout is not None,
        "memory": model and _has_memory(checkpoint),
        "manifest": checkpoint.mismatches is not None,
    }
    if there[check.needs]:
        return None
    return NEEDS["model"] if not checkpoint.quantized or not model else NEEDS[check.needs]


def _figures(checkpoint: Checkpoint) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "bytes": checkpoint.total_bytes,
        "tensors": len(checkpoint.tensors),
        "shards": len(checkpoint.headers),
    }
    if not checkpoint.quantized or checkpoint.config_dims is None:
        return figures
    figures["types"] = dict(checkpoint.module_types())
    if checkpoint.fidelity is not None:
        figures["fidelity"] = checkpoint.fidelity.to_json()
    if checkpoint.layout is not None and _has_memory(checkpoint):
        figures["memory"] = estimate(checkpoint, checkpoint.layout).to_json()
    return figures


def _has_memory(checkpoint: Checkpoint) -> bool:
    """Whether the memory of a device can be estimated: it is named, and the sizes divide."""
    layout = checkpoint.layout
    if layout is None or layout.device_memory is None:
        return False
    return not any(rule_problems(checkpoint.dims, layout))
