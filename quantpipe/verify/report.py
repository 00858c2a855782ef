"""The report of a verification: what failed, grouped, what passed, what was not looked at, and figures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from quantpipe.text import human_bytes
from quantpipe.verify.fidelity.result import FidelityFigures
from quantpipe.verify.finding import Finding, Severity
from quantpipe.verify.memory import MemoryFigures


class _ReportFiguresAlways(TypedDict):
    bytes: int
    tensors: int
    shards: int


class ReportFigures(_ReportFiguresAlways, total=False):
    """What was read, and what follows from it.

    Attributes:
        bytes: of the checkpoint.
        tensors: in the checkpoint.
        shards: in the checkpoint.
        types: how many modules there are of each quantization type; where config.json and the description
            can be read.
        fidelity: the comparison with the source; with `--against`.
        memory: the memory of serving; where the size of a device is known.
    """

    types: dict[str, int]
    fidelity: FidelityFigures
    memory: MemoryFigures


@dataclass(frozen=True)
class Report:
    """What a verification found.

    Attributes:
        path: of the checkpoint.
        target: the vllm-ascend version that has to load it.
        findings: errors first.
        passed: ids of the checks that found nothing.
        skipped: ids of the checks that could not run, with the reason.
        figures: bytes, tensors, shards, types, memory, fidelity.
    """

    path: Path
    target: str
    findings: tuple[Finding, ...]
    passed: tuple[str, ...]
    skipped: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings for which nothing may be published."""
        return tuple(f for f in self.findings if f.severity is Severity.ERROR)

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    def counts(self) -> dict[str, int]:
        """How many findings there are of each severity."""
        count = Counter(finding.severity for finding in self.findings)
        return {severity.value: count[severity] for severity in Severity}

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {
            "path": str(self.path),
            "target": self.target,
            "ok": self.ok,
            "counts": self.counts(),
            "findings": [finding.to_json() for finding in self.findings],
            "passed": list(self.passed),
            "skipped": self.skipped,
            "figures": self.figures,
        }

    def lines(self) -> list[str]:
        """The report for people."""
        lines = [self._headline()]
        for finding in self.findings:
            lines.append(finding.line())
            if finding.severity is not Severity.NOTE:
                lines += [f"    at serving: {finding.effect}", f"    fix: {finding.fix}"]
        lines += self._figure_lines()
        lines.append("passed: " + (" ".join(self.passed) or "nothing"))
        reasons: dict[str, list[str]] = {}
        for check, reason in self.skipped.items():
            reasons.setdefault(reason, []).append(check)
        lines += [f"not checked, needs {reason}: {' '.join(checks)}" for reason, checks in reasons.items()]
        return lines

    def _headline(self) -> str:
        counts = ", ".join(f"{n} {word}{'s' * (n > 1)}" for word, n in self.counts().items() if n)
        verdict = "passed" if self.ok else "FAILED"
        return f"{verdict}: {self.path} for vllm-ascend {self.target}" + (f" ({counts})" if counts else "")

    def _figure_lines(self) -> list[str]:
        figures = self.figures
        types = ", ".join(f"{count:,} {kind}" for kind, count in figures.get("types", {}).items())
        line = (
            f"{figures['tensors']:,} tensors in {figures['shards']:,} shards, {human_bytes(figures['bytes'])}"
        )
        lines = [line + (f"; modules: {types}" if types else "")]
        if fidelity := figures.get("fidelity"):
            kinds = fidelity["by_kind"].items()
            errors = ", ".join(
                f"{kind} {error['mean']:.2%} (at most {error['max']:.2%})" for kind, error in kinds
            )
            lines.append(f"against the source, rotation {fidelity['rotation']}, error by kind: {errors}")
        if memory := figures.get("memory"):
            lines.append(
                f"memory per device: {human_bytes(memory['weight_bytes'])} of weights, "
                f"{human_bytes(memory['reserve_bytes'])} assumed for runtime and activations, "
                f"{human_bytes(memory['budget_bytes'])} allowed; "
                f"about {max(0, memory['kv_tokens']):,} tokens of KV cache at max_model_len "
                f"{memory['max_model_len']:,}: {memory['verdict']}"
            )
        return lines
