"""A generation's report as a page: what decides whether to serve it first, then how, then the evidence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from quantpipe.report.blocks import (
    Block,
    Bullets,
    Code,
    Column,
    Details,
    Listing,
    Metric,
    Metrics,
    Page,
    Paragraph,
    Section,
    Strong,
    Table,
    Text,
)
from quantpipe.report.document import GenerationReport
from quantpipe.report.evidence import checks_section, size_section, smoke_section
from quantpipe.report.quality_section import quality_section
from quantpipe.report.settings import flat
from quantpipe.report.wording import (
    UNKNOWN,
    figure,
    memory,
    number,
    percent,
    perplexity,
    seconds,
    share,
    short,
)
from quantpipe.text import human_bytes, human_seconds


def page_of(report: GenerationReport) -> Page:
    """The page."""
    sections = (
        _serve(report),
        quality_section(report),
        size_section(report),
        checks_section(report),
        smoke_section(report),
        _changes(report),
        _cost(report),
        _origin(report),
    )
    return Page(
        title="Quantization report",
        subject=report.recipe,
        verdict=verdict(report),
        grave=any(remark.weight == "problem" for remark in report.remarks),
        top=(_facts(report), _metrics(report), *_remarks(report)),
        sections=sections,
    )


def verdict(report: GenerationReport) -> str:
    """Whether to serve it, in a sentence."""
    problems = [remark.text for remark in report.remarks if remark.weight == "problem"]
    if problems:
        return f"Do not serve it. {problems[0]}"
    cautions = sum(remark.weight == "caution" for remark in report.remarks)
    known = f"{report.state.capitalize()}: verified, loaded by a real server, published."
    if cautions:
        return f"{known} Look at {number(cautions, 'point')} before serving it."
    return f"{known} Nothing found speaks against serving it."


def _facts(report: GenerationReport) -> Paragraph:
    origin = report.origin
    published = f", published {origin.published}" if origin.published else ""
    by = f" by {origin.publisher}" if origin.publisher else ""
    return Paragraph(
        (
            "Generation ",
            Code(short(report.digest)),
            f" ({report.state}{published}{by}), made from ",
            Code(origin.repo),
            " at ",
            Code(short(origin.commit)),
            f" ({origin.hub}).",
        )
    )


def _metrics(report: GenerationReport) -> Metrics:
    sizes, verify, smoke = report.sizes, report.verify, report.smoke
    counts = verify.get("counts", {})
    found = ", ".join(number(counts.get(word, 0), word) for word in ("error", "warning"))
    items = [
        *_quality_metrics(report),
        Metric(
            "Size",
            human_bytes(sizes.bytes),
            f"{share(sizes.bytes, sizes.source_bytes)} of {human_bytes(sizes.source_bytes)} in BF16",
        ),
        Metric(
            "Static checks",
            f"{len(verify.get('passed', ()))} passed",
            f"{found}, {len(verify.get('skipped', {}))} could not run",
        ),
        Metric("Probes", f"{smoke.matched} of {smoke.known}", "answered as known by a real server"),
        Metric(
            "Time",
            human_seconds(sum(stage.seconds for stage in report.stages)),
            _peak(report),
        ),
    ]
    return Metrics(tuple(items))


def _quality_metrics(report: GenerationReport) -> Iterator[Metric]:
    quality = report.quality
    if quality is None:
        yield Metric("Distance from BF16", "not measured", "KL divergence, top-1, perplexity")
        return
    yield Metric(
        "KL divergence", f"{quality.kl_mean:.4f}", f"nats from BF16; 99th percentile {quality.kl_p99:.3f}"
    )
    yield Metric("Same next token", percent(quality.top1), "as BF16 (top-1)")
    yield Metric(
        "Perplexity",
        perplexity(quality.perplexity_quantized),
        f"BF16 {perplexity(quality.perplexity_bf16)}, ratio {quality.perplexity_ratio:.3f}",
    )


def _peak(report: GenerationReport) -> str:
    peak = max((stage.memory_bytes for stage in report.stages), default=0)
    return f"all stages; memory at most {human_bytes(peak)}" if peak else "all stages"


def _remarks(report: GenerationReport) -> Iterator[Block]:
    if report.remarks:
        words = {"problem": "Problem: ", "caution": "Look at: ", "note": "Note: "}
        yield Bullets(tuple((Strong(words[remark.weight]), remark.text) for remark in report.remarks))


def _serve(report: GenerationReport) -> Section:
    blocks: list[Block] = []
    if report.serve is None:
        blocks.append(
            Paragraph(
                "The serve profile is not known: the recipe has changed since, or is not valid any more."
            )
        )
    else:
        blocks.append(Listing(report.serve.shell))
    if report.back.digest is not None:
        text: Text = ("To return to the generation before, ", Code(short(report.back.digest)), ":")
        blocks += [Paragraph(text), Listing(report.back.command)]
    else:
        blocks.append(Paragraph("There is no earlier generation to return to."))
    return Section("serve", "Serve it, or go back", tuple(blocks))


_TOPICS = {
    "source": "Source",
    "recipe": "Recipe",
    "version": "Version",
    "size": "Size",
    "quality": "Quality",
    "answers": "Answers",
}


def _changes(report: GenerationReport) -> Section:
    title, found = "What changed", report.changes
    if found is None:
        return Section("changes", title, (Paragraph("This is the first generation of the recipe."),))
    before = Code(short(found.digest))
    if not found.known:
        text: Text = ("The generation before, ", before, ", is not in the store any more.")
        return Section("changes", title, (Paragraph(text),))
    if not found.items:
        text = ("Compared with ", before, ", nothing that is recorded differs.")
        return Section("changes", title, (Paragraph(text),))
    columns = (Column("What"), Column("Key"), Column("Before"), Column("Now"))
    rows = tuple(
        (_TOPICS[c.topic], Code(c.key), Code(figure(c.key, c.before)), Code(figure(c.key, c.after)))
        for c in found.items
    )
    table = Table(f"Compared with generation {short(found.digest)}", columns, rows)
    return Section("changes", title, (table,))


def _cost(report: GenerationReport) -> Section:
    columns = (
        Column("Stage"),
        Column("What it did"),
        Column("Time", numeric=True),
        Column("Planned time", numeric=True),
        Column("Peak memory", numeric=True),
        Column("Planned memory", numeric=True),
    )
    rows = tuple(
        (
            stage.stage,
            stage.summary,
            seconds(stage.seconds),
            seconds(stage.planned_seconds),
            memory(stage.memory_bytes),
            memory(stage.planned_memory_bytes),
        )
        for stage in report.stages
    )
    blocks: list[Block] = [Table("Time and host memory by stage, compared with the plan", columns, rows)]
    if report.run is not None:
        run = report.run
        parts: list[Any] = ["Run ", Code(run.id), f" on {run.host or UNKNOWN}, begun {run.started}"]
        parts += [", continues ", Code(run.continues)] if run.continues else []
        blocks.append(Paragraph((*parts, ".")))
        if run.warnings:
            blocks.append(Details(f"Warnings of the run ({len(run.warnings)})", (Bullets(run.warnings),)))
    return Section("cost", "Time and memory", tuple(blocks))


def _origin(report: GenerationReport) -> Section:
    origin = report.origin
    rows: list[tuple[Text, ...]] = [
        ("Source", Code(f"{origin.repo} ({origin.hub})")),
        ("Commit", Code(origin.commit)),
        ("Model", f"{origin.architecture or UNKNOWN}, {number(origin.layers, 'layer')}"),
        ("Recipe digest", Code(origin.recipe_digest or UNKNOWN)),
        ("Generation", Code(report.digest)),
        ("Place", Code(f"{origin.store}/{origin.path}")),
        ("Sealed", origin.sealed or UNKNOWN),
        ("quantpipe", origin.quantpipe or UNKNOWN),
        *((name, version) for name, version in origin.versions.items()),
    ]
    blocks: list[Block] = [Table("Identity", (Column("What"), Column("Value")), tuple(rows))]
    if report.settings:
        keys = tuple((Code(key), Code(figure(key, value))) for key, value in flat(report.settings))
        table = Table("Every key of the recipe that decides a result", (Column("Key"), Column("Value")), keys)
        blocks.append(Details(f"The recipe ({len(keys)} keys)", (table,)))
    return Section("origin", "How it was made", tuple(blocks))
