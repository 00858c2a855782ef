"""Engine `streaming`: from the job to a finished checkpoint, or to a state that the next run continues."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import signal
from pathlib import Path
from typing import Any

import torch
from msmodelslim.core.quant_service.modelslim_v1.quant_config import ModelslimV1QuantConfig
from msmodelslim.infra.file_dataset_loader import FileDatasetLoader
from msmodelslim.processor.quarot.offline_quarot.quarot import QuaRotProcessorConfig
from msmodelslim.utils.seed import seed_all

from quantpipe import durable
from quantpipe.quantize.worker import device
from quantpipe.quantize.worker.protocol import Job, Reporter, StoppedError
from quantpipe.quantize.worker.streaming.adapters import adapter_for
from quantpipe.quantize.worker.streaming.model import skeleton
from quantpipe.quantize.worker.streaming.passes import CALIBRATION, SMOOTHING, Dataset, Passes
from quantpipe.quantize.worker.streaming.processors import Processors
from quantpipe.quantize.worker.streaming.quality.meter import Meter
from quantpipe.quantize.worker.streaming.quality.report import measured, write_report
from quantpipe.quantize.worker.streaming.runner import Runner
from quantpipe.quantize.worker.streaming.saver import UnitSaver
from quantpipe.quantize.worker.streaming.state import State
from quantpipe.quantize.worker.streaming.steps import Estimate, Steps
from quantpipe.quantize.worker.streaming.weights import Weights
from quantpipe.quantize.worker.versions import versions

FORMAT = 2
"""Incremented when the same job would give other bytes: unfinished work is then discarded."""

SHARDS = "shards.json"
"""In the state directory, at the end: size and SHA-256 of each shard."""


def quantize(job: Job, reporter: Reporter) -> None:
    """Run the job's spec layer by layer.

    Raises:
        StoppedError: SIGTERM was received; all finished layers are kept.
        Exception: whatever msmodelslim raises; its own errors carry an `action`.
    """
    stopping = _Stopping()
    _calm_logging()
    device.tune_memory()
    state = State(Path(job.state), Path(job.output))
    reporter.send("phase", name="check")
    differences, discarded = state.open(identity(job))
    if discarded:
        reporter.send("discarded", units=discarded, differences=differences)
    elif state.kept:
        reporter.send("resumed", units=state.kept)
    if state.damaged:
        reporter.send("damaged", units=state.damaged, first=len(state.units))
    measure = job.held_out is not None and measured([u.quality for u in state.units], job.held_out_digest)
    if job.held_out is not None and not measure:
        reporter.send("unmeasured", units=len(state.units))
    reporter.send("phase", name="quantize")
    while True:
        seed_all(seed=42, mode=True)
        runner = _runner(job, reporter, state, stopping, measure=measure)
        finished = runner.run()
        if not state.repaired:
            break
        state.rejoin()
    if not finished:
        raise StoppedError(f"stopped by SIGTERM after {len(state.units)} of {runner.units} units")
    written = runner.saver.conclude(state.units, untied=runner.tied)
    durable.write_json(Path(job.state) / SHARDS, written)
    if measure and measured([unit.quality for unit in state.units], job.held_out_digest):
        write_report(Path(job.state), [unit.quality for unit in state.units])
    for boundary in Path(job.state).glob("boundary-*"):
        boundary.unlink()


def identity(job: Job) -> dict[str, str]:
    """Everything that decides the bits of the output, by name; no paths, which change between runs."""
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


def _runner(job: Job, reporter: Reporter, state: State, stopping: _Stopping, *, measure: bool) -> Runner:
    adapter = adapter_for(job.adapter, Path(job.snapshot), job.trust_remote_code)
    adapter.with_embedding = not state.units
    spec = ModelslimV1QuantConfig(apiversion="modelslim_v1", spec=job.spec).spec
    save = spec.save[0]
    save.set_save_directory(job.output)
    layers = int(adapter.config.num_hidden_layers)
    place = device.place(job.device, job.device_indices)
    passes = Passes(_datasets(job, adapter), place=place, exact=job.exact)
    model = skeleton(adapter)
    meter = _meter(job, adapter, spec, place) if measure else None
    steps, estimate = Steps(functools.partial(reporter.send, "step")), Estimate(layers)
    return Runner(
        model=model,
        weights=Weights.of_snapshot(Path(job.snapshot)),
        state=state,
        processors=Processors(
            spec.process,
            model,
            adapter,
            passes,
            exact=job.exact,
            keep=None if meter is None else meter.keep,
            steps=steps,
        ),
        passes=passes,
        saver=UnitSaver(model, save, adapter),
        tied=bool(adapter.config.tie_word_embeddings),
        on_layer=lambda index: reporter.send("layer", index=index, of=layers, **estimate.layer(index)),
        stop=lambda: stopping.requested or state.repaired,
        place=place,
        steps=steps,
        meter=meter,
    )


def _meter(job: Job, adapter: Any, spec: Any, place: torch.device) -> Meter:
    from msmodelslim.core.const import DeviceType

    texts = FileDatasetLoader(Path(job.snapshot)).get_dataset_by_name(str(job.held_out))
    blocks = [config.block_size for config in spec.process if isinstance(config, QuaRotProcessorConfig)]
    rotation = adapter.rotations(blocks[0])[0] if blocks else None
    return Meter(adapter.handle_dataset(texts, DeviceType.CPU), job.held_out_digest, rotation, place)


def _datasets(job: Job, adapter: Any) -> dict[str, Dataset]:
    """By role, tokenized as msmodelslim does; only one where both roles have the same prompts."""
    from msmodelslim.core.const import DeviceType

    loader = FileDatasetLoader(Path(job.snapshot))
    paths = {CALIBRATION: str(job.spec["dataset"])}
    if job.smoothing_dataset is not None:
        paths[SMOOTHING] = job.smoothing_dataset
    texts = {role: loader.get_dataset_by_name(path) for role, path in paths.items()}
    if texts.get(SMOOTHING) == texts[CALIBRATION]:
        del texts[SMOOTHING]
    return {role: Dataset(adapter.handle_dataset(text, DeviceType.CPU)) for role, text in texts.items()}


def _calm_logging() -> None:
    """msmodelslim wraps a logger's methods again on each lookup: logging gets slower and slower."""
    import logging

    from msmodelslim.utils import logging as theirs

    wrap, wrapped = theirs.filter_logger, set()

    def once(logger: logging.Logger) -> None:
        if id(logger) not in wrapped:
            wrapped.add(id(logger))
            wrap(logger)

    for logger in (logging.root, *logging.root.manager.loggerDict.values()):
        for method in ("critical", "debug", "error", "info", "warning"):
            vars(logger).pop(method, None)  # wrapped many times during imports
    theirs.filter_logger = once


class _Stopping:
    """SIGTERM asks to stop after the layer in progress."""

    def __init__(self) -> None:
        self.requested = False
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        del number, frame
        self.requested = True
