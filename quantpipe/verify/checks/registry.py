"""The registry of checks: each has an id, a severity, what goes wrong at serving, and the fix."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantpipe.verify.finding import Finding, Problem, Severity, group_problems

if TYPE_CHECKING:
    from quantpipe.checkpoint.checkpoint import Checkpoint

Run = Callable[["Checkpoint"], Iterable[Problem]]

NEEDS = {
    "files": "any directory",
    "model": "a description and a config.json that can be read",
    "deep": "the values of the tensors (--deep)",
    "source": "the BF16 source (--against)",
    "layout": "a parallel layout (--tp, --dp, --ep or --recipe)",
    "memory": "a layout whose sizes divide, and the memory of a device (--device-memory)",
    "manifest": "a manifest",
}
"""What a check may need, and how a report says that it was not there."""


@dataclass(frozen=True)
class Check:
    """A check.

    Attributes:
        id: A: raises at load. B: loads and is wrong. C: about the files as a whole.
        title: what it looks at.
        effect: one sentence on what goes wrong at serving.
        fix: what to do.
        needs: a key of NEEDS.
    """

    id: str
    severity: Severity
    title: str
    effect: str
    fix: str
    needs: str
    run: Run

    def findings(self, checkpoint: Checkpoint) -> list[Finding]:
        """What it finds, grouped."""
        return group_problems(self.id, self.severity, self.effect, self.fix, self.run(checkpoint))


_CHECKS: dict[str, Check] = {}


def check(
    id: str, *, effect: str, fix: str, needs: str = "model", severity: Severity = Severity.ERROR
) -> Callable[[Run], Run]:
    """Register a function that yields the problems of a checkpoint; its docstring is the check's title."""
    if id in _CHECKS or needs not in NEEDS:
        raise ValueError(f"check {id}: registered twice, or needs something unknown")

    def register(run: Run) -> Run:
        title = " ".join((run.__doc__ or "").split()).rstrip(".")
        _CHECKS[id] = Check(id, severity, title, effect, fix, needs, run)
        return run

    return register


def all_checks() -> list[Check]:
    """Every check, in the order of their ids."""
    from quantpipe.verify.checks import (  # noqa: F401  (importing registers them)
        description,
        files,
        layout,
        source,
        tensors,
        values,
    )

    return sorted(_CHECKS.values(), key=lambda c: (c.id[0], int(re.sub(r"\D", "", c.id))))
