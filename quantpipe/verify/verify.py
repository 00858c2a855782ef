"""`verify_checkpoint`: read a checkpoint, run the checks, report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from quantpipe.checkpoint.layout import Layout
from quantpipe.checkpoint.strict_json import ABSENT
from quantpipe.digest import OnBytes
from quantpipe.errors import VerificationError
from quantpipe.store.faults import storage_error
from quantpipe.store.manifest import Manifest
from quantpipe.verify.checks.all import all_checks
from quantpipe.verify.checks.needs import missing
from quantpipe.verify.examination import Examination, examine
from quantpipe.verify.finding import Finding, Severity
from quantpipe.verify.report import Report

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
        on_bytes: called with how many more bytes of the checkpoint were read.
        manifest: compare the files with it; with `deep` in the same pass over the shards.
        sealing: the directory will be sealed: its file modes do not count, that sets them.

    Raises:
        VerificationError: no such directory, or a file shrank while being read.
        PreflightError: a file may not be read.
        RetryableError: the storage failed, or went away.
    """
    with (
        _storage(path),
        np.errstate(all="ignore"),
    ):  # what overflows is found by a check: no warning is needed
        examination = examine(
            path,
            target=target,
            deep=deep,
            against=against,
            layout=layout,
            jobs=jobs,
            on_bytes=on_bytes,
            manifest=manifest,
            sealing=sealing,
        )
        return _report(examination)


@contextlib.contextmanager
def _storage(path: Path) -> Iterator[None]:
    """A file that cannot be read is not a finding: after a failed read its content is unknown.

    Raises:
        PreflightError, RetryableError: a fault of the storage; see `store.faults`.
        VerificationError: the path is not a directory, or a file shrank while being read.
    """
    try:
        yield
    except OSError as error:
        fault = None if error.errno in ABSENT else storage_error(error, path)
        raise fault or VerificationError(
            f"the checkpoint cannot be read: {error.strerror}",
            where=str(error.filename or path),
            hint="pass a directory with *.safetensors and quant_model_description.json",
        ) from error


def _report(examination: Examination) -> Report:
    findings: list[Finding] = []
    passed: list[str] = []
    skipped: dict[str, str] = {}
    for check in all_checks():
        found = check.findings(examination)
        if found is None:
            skipped[check.id] = missing(check.needs, examination)
        elif found:
            findings += found
        else:
            passed.append(check.id)
    # Changed bytes come first: they may be the cause of all the rest.
    findings.sort(key=lambda finding: (_ORDER.index(finding.severity), finding.id != "C1"))
    return Report(
        examination.checkpoint.path,
        examination.target,
        tuple(findings),
        tuple(passed),
        skipped,
        _figures(examination),
    )


def _figures(examination: Examination) -> dict[str, Any]:
    checkpoint = examination.checkpoint
    figures: dict[str, Any] = {
        "bytes": checkpoint.total_bytes,
        "tensors": len(checkpoint.tensors),
        "shards": len(checkpoint.headers),
    }
    if examination.model is None:
        return figures
    figures["types"] = dict(examination.model.module_types())
    if examination.fidelity is not None:
        figures["fidelity"] = examination.fidelity.to_json()
    if examination.memory is not None:
        figures["memory"] = examination.memory.to_json()
    return figures
