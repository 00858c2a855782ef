"""The registry of checks: each has an id, a severity, what goes wrong at serving, and the fix.

It knows the decorator only; `quantpipe.verify.checks.all` knows the modules that use it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from quantpipe.verify.checks.needs import Need
from quantpipe.verify.examination import Examination
from quantpipe.verify.finding import Defect, Finding, Severity, group_defects

T = TypeVar("T")
Run = Callable[[T], Iterable[Defect]]


@dataclass(frozen=True)
class Check:
    """A check.

    Attributes:
        id: A: raises at load. B: loads and is wrong. C: about the files as a whole.
        title: what it looks at.
        effect: one sentence on what goes wrong at serving.
        fix: what to do.
        needs: what it cannot run without.
        defects: all that it has to say of an examination; None where its need is not there.
    """

    id: str
    severity: Severity
    title: str
    effect: str
    fix: str
    needs: Need[object]
    defects: Callable[[Examination], Iterable[Defect] | None]

    def findings(self, examination: Examination) -> list[Finding] | None:
        """What it finds, grouped; None where it cannot run."""
        defects = self.defects(examination)
        if defects is None:
            return None
        return group_defects(self.id, self.severity, self.effect, self.fix, defects)


_CHECKS: dict[str, Check] = {}


def check(
    id: str, *, needs: Need[T], effect: str, fix: str, severity: Severity = Severity.ERROR
) -> Callable[[Run[T]], Run[T]]:
    """Register a function that yields the defects of what it needs; its docstring is the check's title.

    Raises:
        ValueError: the id is taken.
    """
    if id in _CHECKS:
        raise ValueError(f"check {id} is registered twice")

    def register(run: Run[T]) -> Run[T]:
        def defects(examination: Examination) -> Iterable[Defect] | None:
            needed = needs.of(examination)
            return None if needed is None else run(needed)

        title = " ".join((run.__doc__ or "").split()).rstrip(".")
        _CHECKS[id] = Check(id, severity, title, effect, fix, needs, defects)
        return run

    return register


def registered() -> list[Check]:
    """The checks of all modules imported so far, in the order of their ids."""
    return sorted(_CHECKS.values(), key=lambda c: (c.id[0], int(re.sub(r"\D", "", c.id))))
