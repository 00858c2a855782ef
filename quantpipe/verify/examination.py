"""What verify finds out about a checkpoint before the checks judge it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from quantpipe.checkpoint.checkpoint import Checkpoint, open_checkpoint
from quantpipe.checkpoint.layout import Layout, indivisible
from quantpipe.digest import OnBytes
from quantpipe.store import manifest as manifests
from quantpipe.store.manifest import Manifest, Mismatch
from quantpipe.verify.fidelity.compare import compare
from quantpipe.verify.fidelity.result import Fidelity
from quantpipe.verify.memory import Memory, estimate
from quantpipe.verify.model import Model, described_model
from quantpipe.verify.values import Values, read_values


@dataclass(frozen=True)
class Examination:
    """A checkpoint and all that was found out about it; None for what was not asked for, or not possible.

    Attributes:
        target: the vllm-ascend version that has to load it.
        sealing: the directory will be sealed: its file modes do not count, that sets them.
        model: None where the description quantizes nothing, or config.json cannot be used.
        layout: how it will be served.
        values: what a deep look found.
        fidelity: the comparison with the BF16 source.
        mismatches: how it differs from its manifest.
    """

    checkpoint: Checkpoint
    target: str
    sealing: bool = False
    model: Model | None = None
    layout: Layout | None = None
    values: Values | None = None
    fidelity: Fidelity | None = None
    mismatches: tuple[Mismatch, ...] | None = None

    @cached_property
    def memory(self) -> Memory | None:
        """The memory of serving; None without a device's memory, or where the sizes do not divide."""
        if self.model is None or self.layout is None or self.layout.device_memory is None:
            return None
        if any(indivisible(self.model.dims, self.layout)):
            return None
        return estimate(self.model, self.layout, self.layout.device_memory)


def examine(
    path: Path,
    *,
    target: str,
    deep: bool,
    against: Path | None,
    layout: Layout | None,
    jobs: int,
    on_bytes: OnBytes | None,
    manifest: Manifest | None,
    sealing: bool,
) -> Examination:
    """Read all that was asked for; the arguments are those of `verify_checkpoint`.

    Raises:
        OSError: a directory or a file cannot be read to its end.
        VerificationError: the source is not a BF16 model.
    """
    checkpoint = open_checkpoint(path, jobs=jobs)
    model = described_model(checkpoint, target)
    values, fidelity, mismatches = None, None, None
    if deep and model is not None:
        values = read_values(model, jobs=jobs, hashes=manifest is not None, on_bytes=on_bytes)
    if against is not None and model is not None:
        with np.errstate(all="ignore"):
            fidelity = compare(model, against, jobs=jobs)
    if manifest is not None:
        hashed = values.sha256 if values is not None else {}
        found = manifests.check(
            path, manifest, jobs=jobs, exclude=manifest.beside(), on_bytes=on_bytes, hashed=hashed
        )
        mismatches = tuple(found)
    return Examination(checkpoint, target, sealing, model, layout, values, fidelity, mismatches)
