"""The messages between quantpipe and its quantize worker. Standard library only: both sides import it.

Job file (JSON), from quantpipe to the worker: the fields of `Job`.
Pipe, from the worker to quantpipe, one JSON object per line, the key "event" being one of

    started   versions: {package: version}, threads: int
    phase     name: what the worker is about to do
    layer     index: decoder layers begun so far, of: how many; eta: seconds until all are done, once one is
    step      within a layer: name, of `STEPS`; done, of: linears (quantize), prompts (calibrate), or 0 and 0
    resumed   units: finished parts of the work, taken over from an earlier run (engine `streaming`)
    discarded units: as above, but discarded; differences: why, one line each
    damaged   units: indices of finished units whose shards have changed on the storage since, which are done
              again; first: the unit from which on
    unmeasured units: finished before with no measuring, or with another held-out set: there will be no
              quality.json
    stopped   message: SIGTERM came, the state is kept
    failed    type, message, action: msmodelslim's own words; fault: what kind it is, of `FAULTS`;
              for "storage" also errno (its name, as in errno.h) and file ("" where it is not known)
    finished  seconds
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

STEPS = ("rotate", "smooth", "quantize", "calibrate", "measure", "write")
"""Steps of a layer in engine `streaming`, in their order; `measure` comes first, too, with the BF16 layer."""

FAULTS = ("storage", "memory", "environment", "device", "source", "error")
"""Kinds of failures: the first four are this host's, "source" a snapshot that changed, "error" all others."""

KEPT_EVERY = 8
"""The boundary after every eighth unit stays: at most eight are done again for a damaged one."""

EXIT_STOPPED = 75
"""The worker's exit status after `stopped`: EX_TEMPFAIL of sysexits.h."""


class StoppedError(Exception):
    """SIGTERM was received: the work ended at a point from which a later run continues."""


@dataclass(frozen=True)
class Job:
    """One quantization.

    Attributes:
        snapshot: directory of the BF16 weights.
        output: empty directory for the checkpoint.
        adapter: msmodelslim's name of the model family's adapter.
        spec: msmodelslim's V1 quantization spec.
        device: "cpu" or "npu".
        device_indices: devices to use; None is the default one.
        trust_remote_code: whether the model's own Python code may run.
        engine: "stock" or "streaming". The fields below are for "streaming" only.
        exact: the bits of engine `stock`; False allows quicker arithmetic.
        state: directory in which unfinished work is kept.
        smoothing_dataset: the prompts that decide the smoothing; None where the spec's dataset does.
        held_out: the prompts with which the quality is measured; None where it is not. They decide no bit
            of the output.
        held_out_digest: of those prompts.
        identity: by name, what decides the bits of the output in addition to what the worker knows itself.
    """

    snapshot: str
    output: str
    adapter: str
    spec: dict[str, Any]
    device: str
    device_indices: list[int] | None
    trust_remote_code: bool
    engine: str = "stock"
    exact: bool = True
    state: str = ""
    smoothing_dataset: str | None = None
    held_out: str | None = None
    held_out_digest: str = ""
    identity: dict[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the job file."""
        path.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read the job file."""
        return cls(**json.loads(path.read_text("utf-8")))


class Reporter:
    """The worker's end of the pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.set_inheritable(descriptor, False)

    def send(self, event: str, **fields: Any) -> None:
        """Send an event; a single write, so that lines never interleave."""
        line = json.dumps({"event": event, **fields}, ensure_ascii=False, default=str) + "\n"
        os.write(self._descriptor, line.encode("utf-8"))
