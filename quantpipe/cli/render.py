"""From results to what a command prints: a JSON value and lines for people. No logic here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantpipe.cli.values import PlanJson, PruneJson, RollbackJson, RunJson, ShippedRecipeJson
from quantpipe.errors import QuantpipeError
from quantpipe.redact import masked, masked_arguments
from quantpipe.text import age, human_bytes, human_seconds

if TYPE_CHECKING:
    from quantpipe.doctor import Observation
    from quantpipe.operate.report import Amount, ScrubReport
    from quantpipe.pipeline import RunResult
    from quantpipe.publish.prune import Candidate
    from quantpipe.publish.retention import Rollback
    from quantpipe.recipe.model import Recipe
    from quantpipe.report.document import GenerationReport, StoreReport
    from quantpipe.settings import Settings
    from quantpipe.stage import StagePlan
    from quantpipe.store.outputs import SmokeFigures
    from quantpipe.store.status import RecipeStatus

Rendered = tuple[Any, list[str]]

_MOST_DETAILS = 20
"""A failure has to fit on one screen; the rest is in the run's log."""

_LONGEST_LINE = 240
_LONGEST_WHAT = 600
"""Characters of a detail, and of what happened or of what to do."""


def error(failure: QuantpipeError) -> list[str]:
    """What happened, where, the details, and what to do next."""
    lines = [f"error: {_fitting(failure.what, _LONGEST_WHAT)}"]
    if failure.where:
        lines.append(f"  where: {failure.where}")
    shown = (
        failure.details[:_MOST_DETAILS] if failure.exit_code in (2, 3) else failure.details[-_MOST_DETAILS:]
    )
    lines += [f"    {_fitting(line)}" for line in shown]
    if left := len(failure.details) - len(shown):
        lines.append(f"    ({left} more lines in the log or with --json)")
    if failure.hint:
        lines.append(f"  next: {_fitting(failure.hint, _LONGEST_WHAT)}")
    return lines


def _fitting(text: str, longest: int = _LONGEST_LINE) -> str:
    """One line, cut where it is too long: msmodelslim and vLLM put whole configurations into messages."""
    line = " ".join(text.split()) if "\n" in text else text
    return line if len(line) <= longest else line[: longest - 1] + "…"


def outcome(recipe: Recipe, settings: Settings, result: RunResult) -> Rendered:
    """How a run ended: where the checkpoint is, its size, and the command that serves it."""
    from quantpipe.smoke.server_command import serve_command
    from quantpipe.store.store import Store

    store = Store(settings.store)
    value: RunJson = {
        "status": result.status,
        "recipe": recipe.name,
        "run": result.run.id if result.run else None,
        "stages": [receipt.to_json() for receipt in result.receipts.values()],
    }
    if result.status == "held":
        digest = result.receipts.publish.outputs.digest
        value["digest"] = digest
        return value, [
            f"{recipe.name}: {digest[:12]} was rolled back and is held; `current` is unchanged",
            "  `--force publish` publishes it again; a changed recipe or source is published as usual",
        ]
    if "publish" not in result.receipts:
        return value, [f"{recipe.name}: {result.status} after {list(result.receipts)[-1]}"]
    digest = result.receipts.publish.outputs.digest
    pointer, generation = store.pointer(recipe.name).path, store.generation(recipe.name, digest)
    script = settings.serve_python.with_name("vllm") if settings.serve_python else None
    program = str(script) if script is not None and script.is_file() else "vllm"
    command = serve_command(generation, recipe.smoke.serve, launcher=recipe.smoke.launcher, program=program)
    figures = result.receipts.quantize.figures
    value["digest"] = digest
    value["path"], value["pointer"] = str(generation), str(pointer)
    value["bytes"], value["source_bytes"] = figures.bytes, figures.source_bytes
    shown = command.to_json()
    value["serve"] = {"arguments": shown["arguments"], "environment": shown["environment"]}
    share = 100 * figures.bytes / figures.source_bytes
    size = f"{human_bytes(figures.bytes)}, {share:.0f} % of {human_bytes(figures.source_bytes)} in BF16"
    lines = [f"{recipe.name}: {result.status}", f"  {pointer} -> {digest[:12]} ({size})"]
    if result.status != "up to date":
        lines += ["", "Serve it with", "", *("  " + line for line in command.shell().splitlines())]
    return value, lines


def plans(stages: Sequence[StagePlan], obstacles: Sequence[QuantpipeError]) -> Rendered:
    """A line per stage, the sums, and the failed preflight checks."""
    disk = sum(stage.disk_bytes for stage in stages)
    memory = max((stage.memory_bytes for stage in stages), default=0)
    value: PlanJson = {
        "stages": [
            {
                "stage": stage.stage,
                "action": stage.action,
                "summary": stage.summary,
                "disk_bytes": stage.disk_bytes,
                "memory_bytes": stage.memory_bytes,
                "notes": list(stage.notes),
            }
            for stage in stages
        ],
        "disk_bytes": disk,
        "memory_bytes": memory,
        "obstacles": [obstacle.to_json() for obstacle in obstacles],
    }
    lines = []
    for stage in stages:
        lines.append(f"{stage.stage:<9} {'up to date' if stage.action == 'reuse' else stage.summary}")
        if stage.action == "run":
            lines += [f"          note: {note}" for note in stage.notes]
    lines.append(f"adds {human_bytes(disk)} to the store, needs {human_bytes(memory)} of memory")
    for obstacle in obstacles:
        lines += ["", *error(obstacle)]
    return value, lines


def statuses(recipes: Sequence[RecipeStatus]) -> Rendered:
    """Per recipe: the current generation, the others, and how the last run went."""
    lines: list[str] = []
    for recipe in recipes:
        lines.append(
            f"{recipe.name}: {'current ' + recipe.current[:12] if recipe.current else 'nothing published'}"
        )
        for generation in recipe.generations:
            verified = f"verified {age(generation.verified)} ago" if generation.verified else "never verified"
            lines.append(
                f"  {generation.digest[:12]}  sealed {generation.sealed}  {verified}  {generation.state}"
            )
            lines += [f"    damaged: {problem}" for problem in generation.damaged]
        lines += [f"  warning: {text}" for text in recipe.warnings]
        if recipe.run is not None:
            lines.append(f"  last run {recipe.run['id']}: {recipe.run['status']}")
            if recipe.run.get("error"):
                fault = recipe.run["error"]
                lines.append(
                    f"    {fault.get('what')}" + (f" ({fault['where']})" if fault.get("where") else "")
                )
                if fault.get("hint"):
                    lines.append(f"    next: {fault['hint']}")
    return [recipe.to_json() for recipe in recipes], lines or ["the store is empty"]


def smoke(figures: SmokeFigures) -> Rendered:
    """The probes with their answers, the checks that passed, and the speed."""
    lines = [f"ready after {figures.ready_seconds:.1f} s"]
    if effective := figures.effective_quantization:
        lines.append(f"  quantization: {_fitting(effective)}")
    for probe in figures.probes:
        mark = {True: "match", False: "mismatch", None: "answered"}[probe["matches"]]
        lines.append(
            f"  {mark:<12} {probe['seconds']:6.2f} s  {probe['prompt']!r} -> {probe['text'].strip()!r}"
        )
    for check in figures.checks:
        if check["skipped"]:
            lines.append(f"  {'skipped':<12}           {check['name']}: {check['skipped']}")
        else:
            lines.append(f"  {'ok':<12} {check['seconds']:6.2f} s  {check['name']}")
    if figures.bench:
        lines.append(f"  {_speed(figures.bench)}")
    return figures.to_json(), lines


def _speed(bench: dict[str, Any]) -> str:
    """Output tokens per second, and other figures of vLLM's benchmark."""
    text = f"speed        {bench['output_throughput']:.1f} output tokens per second"
    if "baseline" in bench:
        text += f", {bench['factor'] * bench['baseline']:.1f} required"
    times = {"mean_ttft_ms": "to first token", "mean_tpot_ms": "per output token"}
    said = [f"{bench[key]:.0f} ms {what}" for key, what in times.items() if bench.get(key) is not None]
    return "; ".join([text, *said])


def rolled_back(name: str, done: Rollback) -> Rendered:
    """From which generation to which, and which ones were skipped."""
    value: RollbackJson = {
        "recipe": name,
        "from": done.left,
        "to": done.now,
        "held": done.left,
        "damaged": {
            digest: [asdict(mismatch) for mismatch in found] for digest, found in done.damaged.items()
        },
    }
    lines = [
        f"{name}: current -> {done.now[:12]} (was {done.left[:12]})",
        f"  {done.left[:12]} is held: runs do not publish it again; `--force publish` does",
    ]
    lines += [
        f"  {digest[:12]} was skipped: it is damaged ({found[0].line()})"
        for digest, found in done.damaged.items()
    ]
    return value, lines


def pruned(candidates: Sequence[Candidate], *, removed: bool) -> Rendered:
    """What was removed, or would be."""
    total = sum(candidate.bytes for candidate in candidates)
    lines = [f"{human_bytes(c.bytes):>10}  {c.kind:<10} {c.path}" for c in candidates]
    verb = "removed" if removed else "would be removed; add --yes to remove"
    lines.append(f"{human_bytes(total):>10}  {verb}" if candidates else "nothing to remove")
    value: PruneJson = {
        "removed": removed,
        "bytes": total,
        "candidates": [candidate.to_json() for candidate in candidates],
    }
    return value, lines


def scrubbed(report: ScrubReport) -> Rendered:
    """What was read, what is left, and each finding with what follows."""
    seconds, size = report.seconds, report.read.bytes
    speed = f", {human_bytes(size / seconds)}/s" if seconds >= 1 else ""
    lines = [f"read {_amount(report.read)} in {human_seconds(seconds)}{speed}"]
    if report.recent.files:
        lines.append(f"  left out as verified lately: {_amount(report.recent)}")
    if report.left.files:
        lines.append(f"  left by the budget: {_amount(report.left)}; the next scrub begins with it")
    for difference in report.differences:
        lines += [f"  damaged: {_fitting(difference.line())}", f"    next: {difference.action}"]
    lines += [f"  cannot be read: {_fitting(str(fault))}" for fault in report.unread]
    if report.status == "clean":
        lines.append(
            f"  nothing damaged in {report.generations} generations and {report.snapshots} snapshots"
        )
    return report.to_json(), lines


def _amount(amount: Amount) -> str:
    return f"{amount.files} files, {human_bytes(amount.bytes)}"


def reported(report: GenerationReport, page: Path | None) -> Rendered:
    """Whether to serve it, what to look at first, and where the page is."""
    from quantpipe.report import plots
    from quantpipe.report.page import verdict

    lines = [f"{report.recipe}: {report.digest[:12]}", f"  {verdict(report)}"]
    lines += [f"  {remark.weight}: {remark.text}" for remark in report.remarks if remark.weight != "note"]
    if page is not None:
        lines += ["", f"  {page}"]
        lines += [] if plots.available() else [f"  {plots.MISSING}"]
    return report.to_json(), lines


def store_reported(report: StoreReport, page: Path | None) -> Rendered:
    """How many generations each recipe has, and where the page is."""
    lines = [
        f"{recipe.name}: {recipe.problem or f'{len(recipe.generations)} published generations'}"
        for recipe in report.recipes
    ]
    lines += [f"  {page}"] if page is not None else []
    return report.to_json(), lines


def doctor(observations: Sequence[Observation]) -> Rendered:
    """A line per observation, with what to do about it."""
    lines = []
    for observation in observations:
        lines.append(f"{'ok  ' if observation.ok else 'FAIL'} {observation.subject:<22} {observation.text}")
        if observation.hint:
            lines.append(f"     {'':<22} next: {observation.hint}")
    return [observation.to_json() for observation in observations], lines


def recipes(shipped: Mapping[str, Path]) -> Rendered:
    """Each shipped recipe with what its second comment says about it."""
    value: list[ShippedRecipeJson] = []
    lines = []
    for name, path in shipped.items():
        comments = [line[1:].strip() for line in path.read_text("utf-8").splitlines() if line.startswith("#")]
        about = comments[1] if len(comments) > 1 else ""
        value.append({"name": name, "path": str(path), "about": about})
        lines += [name, f"    {about}", f"    {path}"]
    return value, lines


def recipe(loaded: Recipe) -> Rendered:
    """The recipe with its defaults, as YAML; without secrets of its serve profile."""
    import yaml

    value = masked(loaded.model_dump(mode="json"))
    value["smoke"]["serve"]["extra_args"] = masked_arguments(loaded.smoke.serve.extra_args)
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
    return value, [f"# digest {loaded.digest()}", *text.splitlines()]
