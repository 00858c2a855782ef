"""The sections with evidence: sizes and types, the checks, the smoke load's transcript."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from quantpipe.report import plots
from quantpipe.report.blocks import (
    Block,
    Code,
    Column,
    Details,
    Inline,
    Paragraph,
    Section,
    Strong,
    Table,
    Text,
    Verbatim,
)
from quantpipe.report.document import GenerationReport, KindSize
from quantpipe.report.wording import KINDS, TYPES, number, share, types
from quantpipe.store.outputs import SmokeFigures
from quantpipe.text import human_bytes, human_seconds


def size_section(report: GenerationReport) -> Section:
    """Bytes and types by kind of module."""
    sizes = report.sizes
    text = (
        f"{human_bytes(sizes.source_bytes)} of BF16 weights became {human_bytes(sizes.bytes)} in "
        f"{number(sizes.files, 'file')}, {share(sizes.bytes, sizes.source_bytes)}."
    )
    blocks: list[Block] = [Paragraph(text)]
    if (plotted := plots.sizes(sizes.kinds)) is not None:
        blocks.append(plotted)
    if sizes.kinds:
        blocks.append(kinds_table(sizes.kinds))
    elif sizes.types:
        rows = tuple((Code(name), f"{count:,}") for name, count in sizes.types.items())
        blocks.append(Table("Quantization types", (Column("Type"), Column("Modules", numeric=True)), rows))
    used = {name for kind in sizes.kinds for name in kind.types} | set(sizes.types)
    if meanings := [(name, TYPES[name]) for name in TYPES if name in used]:
        parts: list[Any] = []
        for name, meaning in meanings:
            parts += [Code(name), f": {meaning}. "]
        blocks.append(Paragraph(tuple(parts)))
    return Section("size", "Size and types", tuple(blocks))


def kinds_table(kinds: Sequence[KindSize]) -> Table:
    """Bytes before and after by kind of module, and all together."""
    columns = (
        Column("Kind of module"),
        Column("Modules", numeric=True),
        Column("Types"),
        Column("Before", numeric=True),
        Column("After", numeric=True),
        Column("Share left", numeric=True),
    )
    rows = [
        (
            KINDS.get(kind.kind, kind.kind),
            f"{kind.modules:,}",
            types(kind.types),
            human_bytes(kind.source_bytes),
            human_bytes(kind.bytes),
            share(kind.bytes, kind.source_bytes),
        )
        for kind in kinds
    ]
    before, after = sum(kind.source_bytes for kind in kinds), sum(kind.bytes for kind in kinds)
    count = sum(kind.modules for kind in kinds)
    total = ("all tensors", f"{count:,}", "", human_bytes(before), human_bytes(after), share(after, before))
    return Table("Bytes of the tensors by kind of module", columns, (*rows, total))


def checks_section(report: GenerationReport) -> Section:
    """What verify found, and what it could not look at."""
    verify = report.verify
    passed, skipped = list(verify.get("passed", ())), dict(verify.get("skipped", {}))
    findings = list(verify.get("findings", ()))
    failed = {finding["id"] for finding in findings}
    total = len(set(passed) | failed | set(skipped))
    figures = dict(verify.get("figures", {}))
    text = (
        f"{len(passed)} of {number(total, 'check')} passed on {figures.get('tensors', 0):,} tensors, for "
        f"vllm-ascend {verify.get('target', '?')}."
    )
    blocks: list[Block] = [Paragraph(text), *_findings(findings), *_fidelity(figures)]
    if skipped:
        rows = tuple((Code(check), str(reason)) for check, reason in skipped.items())
        blocks.append(Table("Checks that could not run", (Column("Check"), Column("It needs")), rows))
    if passed:
        blocks.append(Paragraph(("Passed: ", Code(" ".join(map(str, passed))), ".")))
    return Section("checks", "Checks", tuple(blocks))


def _findings(findings: list[dict[str, Any]]) -> Iterator[Block]:
    if not findings:
        return
    columns = (Column("Check"), Column("Severity"), Column("What"), Column("Where"), Column("What to do"))
    rows = tuple(
        (
            Code(finding["id"]),
            Strong(finding["severity"]),
            _with_detail(finding),
            Verbatim("\n".join(finding["where"])),
            finding["fix"],
        )
        for finding in findings
    )
    yield Table("Findings", columns, rows)


def _with_detail(finding: Mapping[str, Any]) -> str:
    return f"{finding['text']}: {finding['detail']}" if finding.get("detail") else str(finding["text"])


def _fidelity(figures: Mapping[str, Any]) -> Iterator[Block]:
    if not (fidelity := figures.get("fidelity")):
        return
    columns = (Column("Kind of module"), Column("Mean error", numeric=True), Column("Largest", numeric=True))
    rows = tuple(
        (KINDS.get(kind, kind), f"{error['mean']:.2%}", f"{error['max']:.2%}")
        for kind, error in fidelity["by_kind"].items()
    )
    yield Table("Weights compared with the source", columns, rows)


def smoke_section(report: GenerationReport) -> Section:
    """Questions and answers, then what any server has to do."""
    smoke = report.smoke
    how = {"cpu": "a rehearsal on the CPU", "attach": "a server that ran already"}
    meaning = f" ({how[smoke.launcher]})" if smoke.launcher in how else ""
    text = (
        f"Launcher {smoke.launcher}{meaning}: ready after {human_seconds(smoke.ready_seconds)}, "
        f"{smoke.matched} of {number(smoke.known, 'known answer')} given."
    )
    blocks: list[Block] = [Paragraph(text)]
    if smoke.effective_quantization:
        blocks.append(
            Paragraph(("The server's log about the quantization: ", Code(smoke.effective_quantization)))
        )
    if smoke.probes:
        blocks.append(_transcript(smoke))
    if smoke.checks:
        blocks.append(_server_checks(smoke))
    if smoke.bench:
        blocks.append(_bench(smoke.bench))
    return Section("smoke", "Smoke load", tuple(blocks))


_RESULTS: Mapping[bool | None, Inline] = {True: "as known", False: Strong("not as known"), None: "answered"}


def _transcript(smoke: SmokeFigures) -> Table:
    columns = (
        Column("Question"),
        Column("Answer"),
        Column("Result"),
        Column("Seconds", numeric=True),
    )
    rows = tuple(
        (
            Verbatim(str(probe.get("prompt", ""))),
            Verbatim(str(probe.get("text", "")).strip()),
            _result(probe),
            f"{probe.get('seconds', 0.0):.2f}",
        )
        for probe in smoke.probes
    )
    return Table("Transcript: every probe with its answer", columns, rows)


def _result(probe: Mapping[str, Any]) -> Text:
    parts: tuple[Inline, ...] = (_RESULTS[probe.get("matches")],)
    if probe.get("matches") is False:
        parts += (", expected ", Verbatim(str(probe.get("expected") or "").strip()))
    return (*parts, f"; {probe['fault']}") if probe.get("fault") else parts


def _server_checks(smoke: SmokeFigures) -> Table:
    rows = tuple(
        (
            Code(str(check.get("name", ""))),
            f"skipped: {check['skipped']}" if check.get("skipped") else "ok",
            f"{check.get('seconds') or 0.0:.2f}",
        )
        for check in smoke.checks
    )
    columns = (Column("Check of the server"), Column("Result"), Column("Seconds", numeric=True))
    return Table("What any server has to do", columns, rows)


def _bench(bench: Mapping[str, Any]) -> Details:
    plain = {key: value for key, value in bench.items() if isinstance(value, int | float | str)}
    rows = tuple(
        (Code(key), f"{value:,}" if isinstance(value, int) else f"{value}") for key, value in plain.items()
    )
    return Details(
        "Benchmark",
        (Table("Figures of vLLM's benchmark", (Column("Figure"), Column("Value", numeric=True)), rows),),
    )
