"""Gather a report from what the store has of a generation: receipts, provenance, history, headers, events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantpipe.checkpoint.strict_json import parse_object
from quantpipe.errors import UsageError, VerificationError
from quantpipe.publish import retention
from quantpipe.recipe.model import Recipe
from quantpipe.redact import masked_arguments
from quantpipe.report.changes import Comparable, changes
from quantpipe.report.coverage import coverage_of
from quantpipe.report.document import (
    FORMAT,
    Changes,
    GenerationReport,
    Origin,
    RunRecord,
    Sizes,
    StageCost,
)
from quantpipe.report.gates import gates_of
from quantpipe.report.places import stored
from quantpipe.report.remarks import remarks
from quantpipe.report.secrets import redacted
from quantpipe.report.serving import serving, way_back
from quantpipe.report.settings import settings_of
from quantpipe.report.sizes import architecture_of, sizes_by_kind
from quantpipe.store.damaged import marked
from quantpipe.store.history import Move
from quantpipe.store.receipt import AnyReceipt, Receipts, RunDirectory
from quantpipe.store.store import Store

_STAGES_NEEDED = ("fetch", "quantize", "verify", "smoke")


def report_of(store: Store, name: str, digest: str, recipe: Recipe | None = None) -> GenerationReport:
    """The report of a generation.

    Args:
        name: of its recipe.
        digest: of the generation.
        recipe: as it is now; used where it is the one that the generation was made by.

    Raises:
        UsageError: the generation was never published.
        VerificationError: its receipts are damaged.
    """
    receipts = _receipts(store, name, digest)
    generation, provenance = store.generation(name, digest), _provenance(store, name, digest)
    earlier = stored(store, name, digest)
    settings = _settings(recipe, provenance, earlier)
    publish = _publish_of(store, name, digest)
    damage, held = _damage(store, name, digest), retention.held(store, name, digest)
    quality, quantized = receipts.quantize.outputs.quality, receipts.quantize.figures
    verify: dict[str, Any] = receipts.verify.figures.report
    smoke, gates = receipts.smoke.figures, gates_of(settings, quality)
    differs = _changes(store, name, digest, _comparable(receipts, provenance, settings))
    source = provenance.get("source", {})
    state = _state(store, name, digest, damaged=bool(damage), held=held)
    found = GenerationReport(
        format=FORMAT,
        recipe=name,
        digest=digest,
        state=state,
        remarks=remarks(state, held, damage, verify, smoke, quality, gates, differs),
        origin=Origin(
            hub=str(source.get("hub", "")),
            repo=str(source.get("repo", "")),
            commit=receipts.fetch.outputs.commit,
            architecture=architecture_of(generation),
            layers=quantized.layers,
            recipe_digest=str(provenance.get("recipe", {}).get("digest", "")),
            quantpipe=str(provenance.get("quantpipe", "")),
            versions=quantized.versions,
            sealed=str(provenance.get("created", "")),
            published=publish.time if publish else "",
            publisher=f"{publish.user}@{publish.host}" if publish and publish.host else "",
            store=str(store.root),
            path=store.relative(generation),
        ),
        sizes=Sizes(
            source_bytes=quantized.source_bytes,
            bytes=quantized.bytes,
            files=quantized.files,
            kinds=sizes_by_kind(generation, store.absolute(receipts.fetch.outputs.snapshot)),
            types=dict(verify.get("figures", {}).get("types", {})),
        ),
        quality=quality,
        gates=gates,
        experts=coverage_of(store.root, quality) or (earlier.experts if earlier else ()),
        verify=verify,
        smoke=replace(smoke, command=tuple(masked_arguments(smoke.command))),
        stages=tuple(_cost(receipt) for receipt in receipts.values()),
        run=_run(store, name, publish) or (earlier.run if earlier else None),
        serve=serving(generation, settings),
        back=way_back(store, name, digest),
        changes=differs,
        settings=settings,
    )
    return GenerationReport.from_json(redacted(found.to_json()), where="the report")


def state_of(store: Store, name: str, digest: str) -> str:
    """`current`, `held`, `published earlier` or `damaged`."""
    damaged, held = bool(_damage(store, name, digest)), retention.held(store, name, digest)
    return _state(store, name, digest, damaged=damaged, held=held)


def _state(store: Store, name: str, digest: str, *, damaged: bool, held: bool) -> str:
    if damaged:
        return "damaged"
    if store.pointer(name).named() == digest:
        return "current"
    return "held" if held else "published earlier"


def _damage(store: Store, name: str, digest: str) -> list[str]:
    return [found.line() for found in marked(store.generation(name, digest))]


def _receipts(store: Store, name: str, digest: str) -> Receipts:
    receipts = store.load_receipts(name, digest)
    if missing := [stage for stage in _STAGES_NEEDED if stage not in receipts]:
        raise UsageError(
            f"generation {digest[:12]} of {name} has no receipts of {', '.join(missing)}",
            where=str(store.receipts_path(name, digest)),
            hint="a report is made of a published generation: `quantpipe status` lists them",
        )
    return receipts


def _provenance(store: Store, name: str, digest: str) -> dict[str, Any]:
    """Empty where it cannot be read: the rest of a report still says what is wrong."""
    try:
        return store.provenance(store.generation(name, digest)) or {}
    except (OSError, VerificationError):
        return {}


def _settings(
    recipe: Recipe | None, provenance: Mapping[str, Any], earlier: GenerationReport | None
) -> dict[str, Any]:
    """As they were when it was published; of a recipe only if it still makes the same weights."""
    if recipe is not None and recipe.digest() == provenance.get("recipe", {}).get("digest"):
        return settings_of(recipe)
    return earlier.settings if earlier is not None else {}


def _publish_of(store: Store, name: str, digest: str) -> Move | None:
    moves = [m for m in store.pointer(name).history.moves() if m.digest == digest and m.action == "publish"]
    return moves[-1] if moves else None


def _comparable(receipts: Receipts, provenance: Mapping[str, Any], settings: Mapping[str, Any]) -> Comparable:
    quantized, smoke, source = receipts.quantize, receipts.smoke.figures, provenance.get("source", {})
    own = {"quantpipe": str(provenance["quantpipe"])} if "quantpipe" in provenance else {}
    return Comparable(
        source={"repo": str(source.get("repo", "")), "commit": receipts.fetch.outputs.commit},
        settings=settings,
        versions={**own, **quantized.figures.versions},
        sizes={"source_bytes": quantized.figures.source_bytes, "bytes": quantized.figures.bytes},
        answers={"probes": smoke.known, "matched": smoke.matched},
        quality=quantized.outputs.quality,
    )


def _changes(store: Store, name: str, digest: str, after: Comparable) -> Changes | None:
    order = store.pointer(name).order()
    before = order[: order.index(digest)] if digest in order else order
    if not before:
        return None
    try:
        receipts = _receipts(store, name, before[-1])
    except (UsageError, VerificationError):
        return Changes(before[-1], known=False, items=())
    earlier = stored(store, name, before[-1])
    provenance = _provenance(store, name, before[-1])
    compared = _comparable(receipts, provenance, earlier.settings if earlier else {})
    return Changes(before[-1], known=True, items=changes(compared, after))


def _cost(receipt: AnyReceipt) -> StageCost:
    cost = receipt.cost
    return StageCost(
        stage=receipt.stage,
        started=receipt.started,
        seconds=receipt.seconds,
        planned_seconds=cost.planned_seconds if cost else None,
        memory_bytes=cost.memory_bytes if cost else 0,
        planned_memory_bytes=cost.planned_memory_bytes if cost else 0,
        summary=receipt.summary,
    )


def _run(store: Store, name: str, publish: Move | None) -> RunRecord | None:
    """The run that published it; None where its folder is gone, or where the history does not name it."""
    known = [run for run in store.runs(name) if run.state()]
    if publish is not None and publish.run:
        known = [run for run in known if run.id == publish.run]
    elif len(known) != 1:
        return None
    if not known:
        return None
    state = known[0].state()
    return RunRecord(
        id=known[0].id,
        host=str(state.get("host", "")),
        started=str(state.get("started", "")),
        continues=state.get("continues") if isinstance(state.get("continues"), str) else None,
        warnings=_warnings(known[0]),
    )


def _warnings(run: RunDirectory) -> tuple[str, ...]:
    """What a run warned of, each text once; none where its events cannot be read."""
    try:
        lines = run.events.read_bytes().splitlines()
    except OSError:
        return ()
    texts = []
    for line in lines:
        try:
            event = parse_object(line)
        except ValueError:  # of a write that was killed
            continue
        if event.get("event") == "warning":
            texts.append(str(event.get("text", "")))
    return tuple(dict.fromkeys(texts))
