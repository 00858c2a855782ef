"""Stage quantize: from the snapshot to a checkpoint in the run's staging directory."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from quantpipe import durable
from quantpipe.checkpoint.strict_json import load_object
from quantpipe.digest import digest_of
from quantpipe.errors import PreflightError
from quantpipe.host.machine import memory_limit, named_interpreter, require_interpreter, require_npu
from quantpipe.quantize.estimate import BASE_MEMORY, HELD_LAYERS, Estimate, estimate
from quantpipe.quantize.worker.protocol import Job
from quantpipe.recipe.datasets import dataset_digest, write_msmodelslim_dataset
from quantpipe.stage import Context, QuantizePlan, StageName, StageResult
from quantpipe.store import folders, manifest
from quantpipe.store.manifest import FileEntry, Manifest
from quantpipe.store.outputs import QuantizeFigures, QuantizeOutput
from quantpipe.store.quality import QUALITY, Quality, read_quality
from quantpipe.store.receipt import QuantizeReceipt
from quantpipe.store.sealed import glance_at_sealed
from quantpipe.text import human_bytes, human_seconds

OUTPUT_FORMAT = 1
"""Raised when the same msmodelslim output would be finished into other bytes: this invalidates receipts."""

CHECKPOINT = "checkpoint"
STATE = "state"
SHARDS = "shards.json"
"""In the staging directory: the checkpoint, the state that a later run resumes from, and a file of that."""

_LAYER_SECONDS = 1800.0
"""Timeout after SIGTERM: engine `streaming` finishes the layer in progress, then ends by itself."""

_OUTPUT_SHARE = 0.52
"""Bytes of the checkpoint per byte of BF16: 237 GB of 470 GB for Qwen3-235B; a little more when small."""

_UNKNOWN_LAYERS_SHARE = HELD_LAYERS / 24
"""Of the model's bytes, where config.json is not available yet: fewer layers than 24 are rare."""

_STOCK_MEMORY_SHARE = 1.1
_STOCK_MEMORY_BASE = 2 << 30


class QuantizeStage:
    """Runs msmodelslim in its own interpreter and makes its output servable.

    Args:
        forced: the user forced this stage: a different result than before is then a warning, not an error.
    """

    name: StageName = "quantize"

    def __init__(self, *, forced: bool = False) -> None:
        self._forced = forced

    def key(self, context: Context) -> str:
        """From the quantize section with its prompts, and the snapshot's manifest."""
        inputs = context.recipe.stage_inputs()["quantize"]
        return digest_of([self.name, OUTPUT_FORMAT, inputs, context.fetch.manifest])

    def plan(self, context: Context) -> QuantizePlan:
        """Disk for the checkpoint; memory for the whole model (`stock`) or for a few layers (`streaming`)."""
        source_bytes = context.plans.fetch.source_bytes
        quantize = context.recipe.quantize
        output = math.ceil(source_bytes * _OUTPUT_SHARE) + (1 << 20)
        memory = math.ceil(source_bytes * _STOCK_MEMORY_SHARE) + _STOCK_MEMORY_BASE
        seconds, time, boundaries = None, "", 0
        if quantize.engine == "streaming" and (found := _estimate(context)) is not None:
            memory = min(memory, found.memory_bytes)
            seconds, time = found.seconds, f", roughly {human_seconds(found.seconds)}"
            boundaries = found.boundary_bytes
        elif quantize.engine == "streaming":
            memory = BASE_MEMORY + math.ceil(source_bytes * _UNKNOWN_LAYERS_SHARE)
        return QuantizePlan(
            self.name,
            "run",
            f"{quantize.scheme} with engine {quantize.engine} on {quantize.device}, "
            f"{len(context.recipe.calibration_prompts())} prompts, about {human_bytes(output)}{time}",
            disk_bytes=output + boundaries,
            memory_bytes=memory,
            notes=self._notes(context),
            checkpoint_bytes=output,
            seconds=seconds,
        )

    def preflight(self, context: Context) -> None:
        """Interpreter, device and memory, before any byte is fetched.

        Raises:
            PreflightError: one of them is missing or too small.
        """
        require_interpreter(
            context.settings.quantize_python,
            "QUANTPIPE_QUANTIZE_PYTHON",
            ("torch", "transformers", "msmodelslim"),
        )
        if context.recipe.quantize.device != "cpu":
            require_npu("quantize.device")
        _require_plain_path(context.store.root)
        needed, there = context.plans[self.name].memory_bytes, memory_limit()
        if needed > there:
            raise PreflightError(
                f"engine `{context.recipe.quantize.engine}` needs about {human_bytes(needed)} of memory, "
                f"but only {human_bytes(there)} is available",
                where="quantize.engine",
                hint="use a host with more memory, or raise the limit of this container"
                + (", or set `engine: streaming`" if context.recipe.quantize.engine == "stock" else ""),
            )

    def run(self, context: Context) -> StageResult[QuantizeOutput, QuantizeFigures]:
        """Quantize; engine `streaming` continues an interrupted run, engine `stock` cannot.

        Raises:
            QuantpipeError: of worker_process.run.
            VerificationError: the snapshot is not what was fetched, or equal inputs gave a different result.
        """
        # Imported here: a no-op refresh needs none of it, and stays quick.
        from quantpipe.host.child import GRACE_SECONDS
        from quantpipe.quantize import reproduced, source, worker_process
        from quantpipe.quantize.finish import finish

        snapshot = context.store.absolute(context.fetch.snapshot)
        streaming = context.recipe.quantize.engine == "streaming"
        if not streaming and context.recipe.quantize.rotate:
            source.refuse_tied_embeddings(snapshot)
        source.require_unchanged(snapshot)
        _prepare_staging(context, keep=streaming)
        staging = context.run.staging / CHECKPOINT
        outcome = worker_process.run(
            self._job(context, snapshot, staging),
            python=named_interpreter(context.settings.quantize_python, "QUANTPIPE_QUANTIZE_PYTHON"),
            folder=context.run.path,
            log=context.run.logs / "quantize.log",
            run_id=context.run.id,
            stall_seconds=context.settings.stall_seconds,
            passed=context.settings.pass_environment,
            console=context.console,
            threads=context.recipe.quantize.threads,
            grace=_LAYER_SECONDS if streaming else GRACE_SECONDS,
        )
        quantize = context.recipe.quantize
        source.require_unchanged(snapshot)  # again: the files copied meanwhile are checked too
        finish(staging, snapshot, scheme=quantize.scheme, trust_remote_code=quantize.trust_remote_code)
        durable.fsync_tree(staging)  # before the receipt says that it is there
        written = _hash(context, staging, _hashed(context) if streaming else {})
        figures = QuantizeFigures(
            bytes=written.total_bytes,
            source_bytes=source.weight_bytes(snapshot),
            files=len(written.entries),
            layers=outcome.layers,
            worker_seconds=outcome.seconds,
            versions=outcome.versions,
            threads=outcome.threads,
            resumed_units=outcome.resumed,
        )
        quality = _measured(context) if streaming else None
        reproduced.require(context, self.key(context), written, figures, accept=self._forced)
        return StageResult(
            QuantizeOutput(context.store.relative(staging), written, quality),
            figures,
            summary=f"{outcome.layers} layers, {human_bytes(written.total_bytes)}{_in_short(quality)}",
        )

    def still_there(self, context: Context, receipt: QuantizeReceipt) -> bool:
        """Its files are in staging, where verify checks their content, or are sealed with their sizes."""
        written = receipt.outputs.manifest
        staging = context.store.absolute(receipt.outputs.checkpoint)
        sealed = context.store.generation(context.recipe.name, written.digest())
        return _has_files(staging, written) or not glance_at_sealed(sealed)

    def _job(self, context: Context, snapshot: Path, staging: Path) -> Job:
        from quantpipe.quantize.spec import adapter_for, build_spec

        quantize = context.recipe.quantize
        dataset = context.run.path / "calibration.json"
        write_msmodelslim_dataset(context.recipe.calibration_prompts(), dataset)
        kind, _, indices = quantize.device.partition(":")
        return Job(
            snapshot=str(snapshot),
            output=str(staging),
            adapter=adapter_for(snapshot, quantize),
            spec=build_spec(quantize, dataset),
            device=kind,
            device_indices=[int(index) for index in indices.split(",")] if indices else None,
            trust_remote_code=quantize.trust_remote_code,
            engine=quantize.engine,
            exact=quantize.exact,
            state=str(context.run.staging / STATE),
            smoothing_dataset=_smoothing_dataset(context),
            held_out=_held_out(context),
            held_out_digest=context.recipe.quality.dataset.digest(),
            identity=_identity(context),
        )

    def _notes(self, context: Context) -> tuple[str, ...]:
        if context.recipe.quantize.anti_outlier is None or context.recipe.quantize.engine != "stock":
            return ()
        if context.recipe.calibration_prompts() == context.recipe.anti_outlier_prompts():
            return ()
        return (
            "engine `stock` takes one dataset: the calibration set also determines the smoothing scales, "
            "the anti-outlier set is ignored",
        )


def _require_plain_path(store: Path) -> None:
    """msmodelslim refuses paths with other characters than these, links resolved."""
    if not re.fullmatch(r"[A-Za-z0-9_./-]+", str(store.resolve())):
        raise PreflightError(
            "msmodelslim accepts only paths of letters, digits and the characters _ . / -",
            where=str(store.resolve()),
            hint="choose another store with --store or QUANTPIPE_STORE",
        )


def _estimate(context: Context) -> Estimate | None:
    """From config.json, if the fetch plan has it."""
    quantize, recipe = context.recipe.quantize, context.recipe
    config = context.plans.fetch.config
    if config is None:
        return None
    smooth = quantize.anti_outlier is not None and quantize.anti_outlier.method != "none"
    another = smooth and recipe.anti_outlier_prompts() != recipe.calibration_prompts()
    return estimate(
        config,
        prompts=len(recipe.calibration_prompts()),
        datasets=2 if another else 1,
        rotate=quantize.rotate,
        smooth=smooth,
        npu=quantize.device != "cpu",
        held_out=len(recipe.quality.dataset.prompts) if recipe.quality.measure else 0,
    )


def _prepare_staging(context: Context, *, keep: bool) -> None:
    """An empty staging directory, or with `keep` that of an incomplete run.

    With a receipt the work was finished once: if it runs all the same, it starts from scratch.
    """
    staging = context.run.staging
    finished = context.run.load("quantize") is not None
    if not keep or finished or not (staging / STATE).is_dir():
        shutil.rmtree(staging, ignore_errors=True)
    # In this order: killed in between, the receipt describes files that are gone, and is invalid.
    context.run.receipt_path("quantize").unlink(missing_ok=True)
    folders.make_private(staging)  # nobody else changes it between verify and the seal
    (staging / CHECKPOINT).mkdir(exist_ok=True)


def _identity(context: Context) -> dict[str, str]:
    """What determines the output but the worker does not see: by content, since paths change between runs."""
    recipe = context.recipe
    return {
        "source": context.fetch.manifest,
        "calibration prompts": dataset_digest(recipe.calibration_prompts()),
        "anti-outlier prompts": dataset_digest(recipe.anti_outlier_prompts()),
    }


def _smoothing_dataset(context: Context) -> str | None:
    """The file of the prompts that determine the smoothing; None where the recipe does not smooth."""
    section = context.recipe.quantize.anti_outlier
    if section is None or section.method == "none":
        return None
    path = context.run.path / "anti_outlier.json"
    return str(write_msmodelslim_dataset(context.recipe.anti_outlier_prompts(), path))


def _held_out(context: Context) -> str | None:
    """The file of the prompts with which the quality is measured; None where it is not."""
    quality = context.recipe.quality
    if not quality.measure or context.recipe.quantize.engine != "streaming":
        return None
    path = context.run.path / "held_out.json"
    return str(write_msmodelslim_dataset(quality.dataset.prompts, path))


def _measured(context: Context) -> Quality | None:
    """The worker's report, moved beside the staging directory, where it outlives it; its summary."""
    found, kept = context.run.staging / STATE / QUALITY, context.run.path / QUALITY
    kept.unlink(missing_ok=True)
    if not found.is_file():
        return None
    shutil.copyfile(found, kept)
    return replace(read_quality(kept).summary, file=context.store.relative(kept))


def _hashed(context: Context) -> dict[str, FileEntry]:
    """The shards with the hashes that the worker took while writing them: nothing is read twice."""
    path = context.run.staging / STATE / SHARDS
    shards = load_object(path)
    return {name: FileEntry(name, shard["size"], shard["sha256"]) for name, shard in shards.items()}


def _hash(context: Context, staging: Path, known: Mapping[str, FileEntry]) -> Manifest:
    """The manifest; files that are `known` are not read, verify does that."""
    paths = [staging / path for path in manifest.list_files(staging, exclude=known)]
    total = sum(path.stat().st_size for path in paths)
    with context.console.progress("hash", total, unit="B") as bar:
        jobs = context.settings.jobs
        rest = manifest.build(staging, jobs=jobs, exclude=known, on_bytes=bar.advance)
    return Manifest((*rest.entries, *known.values()))


def _in_short(quality: Quality | None) -> str:
    return "" if quality is None else f", KL {quality.kl_mean:.3g}, top-1 {quality.top1:.1%}"


def _has_files(place: Path, written: Manifest) -> bool:
    return all((place / entry.path).is_file() for entry in written.entries)
