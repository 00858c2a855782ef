"""Engine `streaming`: from the job to a finished checkpoint, or to a state that the next run continues."""

from __future__ import annotations

import hashlib
import json
import platform
import signal
from pathlib import Path
from typing import Any

import torch
from msmodelslim.core.quant_service.modelslim_v1.quant_config import ModelslimV1QuantConfig
from msmodelslim.infra.file_dataset_loader import FileDatasetLoader
from msmodelslim.utils.seed import seed_all
from torch import nn

from quantpipe import durable
from quantpipe.quantize.worker import device
from quantpipe.quantize.worker.protocol import Job, Reporter, StoppedError
from quantpipe.quantize.worker.streaming import model
from quantpipe.quantize.worker.streaming.runner import CALIBRATION, SMOOTHING, Chain, Runner
from quantpipe.quantize.worker.streaming.saver import UnitSaver
from quantpipe.quantize.worker.streaming.state import State
from quantpipe.quantize.worker.streaming.weights import Weights
from quantpipe.quantize.worker.versions import versions

FORMAT = 2
"""Raised when the same job would be quantized into other bytes: unfinished work then lapses."""

SHARDS = "shards.json"
"""In the state directory, when all is done: size and SHA-256 of each shard."""


def quantize(job: Job, reporter: Reporter) -> None:
    """Run the job's spec layer by layer.

    Raises:
        StoppedError: SIGTERM came; all finished layers are kept.
        Exception: whatever msmodelslim raises; its own errors carry an `action`.
    """
    stopping = _Stopping()
    _calm_logging()
    device.tune_memory()
    state = State(Path(job.state), Path(job.output))
    differences, given_up = state.open(identity(job))
    if given_up:
        reporter.send("discarded", units=given_up, differences=differences)
    elif state.units:
        reporter.send("resumed", units=len(state.units))
    reporter.send("phase", name="quantize")
    seed_all(seed=42, mode=True)
    runner = _runner(job, reporter, state, stopping)
    if not runner.run():
        raise StoppedError(f"stopped by SIGTERM behind {len(state.units)} of {runner.layers + 2} units")
    written = runner.saver.conclude(state.units, untied=runner.tied)
    durable.write_json(Path(job.state) / SHARDS, written)
    for boundary in Path(job.state).glob("boundary-*"):
        boundary.unlink()


def identity(job: Job) -> dict[str, str]:
    """All that decides the bits of the output, by name; no paths, which change between runs."""
    spec = {key: value for key, value in job.spec.items() if key != "dataset"}
    return {
        **job.identity,
        "format": str(FORMAT),
        "spec": _digest(spec),
        "exact": str(job.exact),
        "adapter": job.adapter,
        "device": job.device,
        "threads": str(torch.get_num_threads()),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        **{f"version of {name}": version for name, version in versions().items()},
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8")).hexdigest()


def _runner(job: Job, reporter: Reporter, state: State, stopping: _Stopping) -> Runner:
    adapter = model.adapter_for(job.adapter, Path(job.snapshot), job.trust_remote_code)
    spec = ModelslimV1QuantConfig(apiversion="modelslim_v1", spec=job.spec).spec
    save = spec.save[0]
    save.set_save_directory(job.output)
    layers = int(adapter.config.num_hidden_layers)

    def saver(skeleton: nn.Module) -> UnitSaver:
        return UnitSaver(skeleton, save, adapter)

    return Runner(
        adapter,
        Weights.of_snapshot(Path(job.snapshot)),
        state,
        spec.process,
        saver,
        _chains(job, adapter),
        on_layer=lambda index: reporter.send("layer", index=index, of=layers),
        stop=lambda: stopping.wanted,
        place=device.place(job.device, job.device_indices),
        exact=job.exact,
    )


def _chains(job: Job, adapter: Any) -> dict[str, Chain]:
    """The datasets by role, tokenized as msmodelslim does; one chain where both roles have one dataset."""
    from msmodelslim.core.const import DeviceType

    loader = FileDatasetLoader(Path(job.snapshot))
    paths = {CALIBRATION: str(job.spec["dataset"])}
    if job.smoothing_dataset is not None:
        paths[SMOOTHING] = job.smoothing_dataset
    texts = {role: loader.get_dataset_by_name(path) for role, path in paths.items()}
    if texts.get(SMOOTHING) == texts[CALIBRATION]:
        del texts[SMOOTHING]
    return {role: Chain(adapter.handle_dataset(text, DeviceType.CPU)) for role, text in texts.items()}


def _calm_logging() -> None:
    """msmodelslim wraps a logger's methods anew each time it is looked up: logging gets ever slower."""
    import logging

    from msmodelslim.utils import logging as theirs

    wrap, wrapped = theirs.filter_logger, set()

    def once(logger: logging.Logger) -> None:
        if id(logger) not in wrapped:
            wrapped.add(id(logger))
            wrap(logger)

    for logger in (logging.root, *logging.root.manager.loggerDict.values()):
        for method in ("critical", "debug", "error", "info", "warning"):
            vars(logger).pop(method, None)  # the layers of wrapping that imports have left
    theirs.filter_logger = once


class _Stopping:
    """SIGTERM asks to stop behind the layer in work."""

    def __init__(self) -> None:
        self.wanted = False
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        del number, frame
        self.wanted = True
