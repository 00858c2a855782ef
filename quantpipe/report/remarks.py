"""What to know before a checkpoint is served: derived from the figures of a report, the gravest first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from quantpipe.report.document import Changes, Gate, Remark
from quantpipe.report.wording import number
from quantpipe.store.outputs import SmokeFigures
from quantpipe.store.quality import Quality

_ORDER = ("problem", "caution", "note")

WORSE = 1.25
"""From this ratio on, a mean KL divergence above that of the generation before is worth a look."""

_LOST = 1000.0
"""A perplexity from which on a model does not speak the language of the text."""


def remarks(
    state: str,
    held: bool,
    damage: Sequence[str],
    verify: dict[str, Any],
    smoke: SmokeFigures,
    quality: Quality | None,
    gates: Sequence[Gate],
    changes: Changes | None,
) -> tuple[Remark, ...]:
    """All that apply.

    Args:
        state: of the generation.
        held: whether somebody rolled back from it.
        damage: how it differs from its manifest; empty where it is not known to.
        verify: the report of stage verify.
    """
    found = [
        *_state(state, held, damage),
        *_verify(verify),
        *_smoke(smoke),
        *_gates(gates),
        *_quality(quality, changes),
    ]
    return tuple(sorted(found, key=lambda remark: _ORDER.index(remark.weight)))


def _state(state: str, held: bool, damage: Sequence[str]) -> Iterator[Remark]:
    if damage:
        yield Remark(
            "problem", f"The files differ from their manifest ({damage[0]}): run the recipe to replace them."
        )
    if held:
        yield Remark("problem", "This generation was rolled back and is held: runs do not publish it again.")
    if state == "published earlier":
        yield Remark("note", "This generation is not current any more.")


def _verify(verify: dict[str, Any]) -> Iterator[Remark]:
    counts = verify.get("counts", {})
    if warnings := counts.get("warning"):
        yield Remark("caution", f"The checks gave {number(warnings, 'warning')}; see Checks.")
    for check, reason in verify.get("skipped", {}).items():
        yield Remark("note", f"Check {check} could not run: it needs {reason}.")


def _smoke(smoke: SmokeFigures) -> Iterator[Remark]:
    if smoke.launcher == "cpu":
        yield Remark(
            "caution",
            "The smoke load was a rehearsal: the real vLLM engine with exact int8 arithmetic on a CPU. "
            "The checkpoint has not been loaded on an NPU.",
        )
    if smoke.unverified:
        yield Remark(
            "caution",
            "The server of the smoke load did not report which directory it serves: that it served this "
            "checkpoint is not proved.",
        )
    if not smoke.known:
        yield Remark("caution", "No probe has a known answer: read the answers in Smoke load.")
    elif smoke.matched < smoke.known:
        yield Remark(
            "caution",
            f"{smoke.known - smoke.matched} of {number(smoke.known, 'probe')} did not give the known "
            "answer; see Smoke load.",
        )
    if faults := [probe for probe in smoke.probes if probe.get("fault")]:
        yield Remark("caution", f"{number(len(faults), 'answer')} cannot be right; see Smoke load.")


def _gates(gates: Sequence[Gate]) -> Iterator[Remark]:
    for gate in gates:
        if not gate.passed:
            yield Remark(
                "problem",
                f"The quality gate {gate.key} fails: {gate.value:.4g}, the limit is {gate.limit:g}.",
            )


def _quality(quality: Quality | None, changes: Changes | None) -> Iterator[Remark]:
    if quality is None:
        yield Remark(
            "caution",
            "How far the quantized model is from BF16 was not measured: compare answers of both before "
            "serving.",
        )
        return
    if quality.perplexity_bf16 > _LOST:
        yield Remark(
            "caution",
            "The BF16 model itself cannot predict the held-out prompts (perplexity "
            f"{quality.perplexity_bf16:,.0f}): the figures of quality say little about what it is used for.",
        )
    if unreached := len(quality.unreached_experts):
        yield Remark(
            "caution",
            f"No token of the calibration set reached {number(unreached, 'expert')}: nothing "
            "about their activations is known. A longer or broader calibration set reaches more.",
        )
    for change in changes.items if changes is not None else ():
        if (
            change.key == "kl_mean"
            and change.before
            and change.after
            and change.after > WORSE * change.before
        ):
            yield Remark(
                "caution",
                f"The mean KL divergence rose from {change.before:.4f} to {change.after:.4f} since the "
                "generation before.",
            )
