"""Each planted defect is found by its check, and by no other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from quantpipe.verify.report import Report
from quantpipe.verify.verify import verify_checkpoint
from verify.defects import DEFECTS, Defect

pytestmark = pytest.mark.quantize_env
KNOWN_NOTES = {"v0-moe": {"B8", "B10"}}
CopyOf = Callable[[str], Path]


def found(report: Report, kind: str) -> set[tuple[str, str]]:
    """Ids and levels of the findings, except for the notes that a V0 checkpoint always has."""
    known = {(check, "note") for check in KNOWN_NOTES.get(kind, ())}
    return {(f.id, f.severity.value) for f in report.findings} - known


CASES = [
    pytest.param(defect, kind, id=f"{defect.check}-{defect.name}-{kind}")
    for defect in DEFECTS
    for kind in defect.kinds
]


@pytest.mark.parametrize(("defect", "kind"), CASES)
def test_defect_is_found_and_no_other(copy_of: CopyOf, defect: Defect, kind: str) -> None:
    path = copy_of(kind)
    defect.plant(path)
    report = verify_checkpoint(path, deep=True)
    assert found(report, kind) == {(defect.check, defect.level)}, "\n".join(report.lines())


@pytest.mark.parametrize("defect", [d for d in DEFECTS if not d.values], ids=lambda d: d.name)
def test_headers_are_enough(copy_of: CopyOf, defect: Defect) -> None:
    kind = defect.kinds[0]
    path = copy_of(kind)
    defect.plant(path)
    assert found(verify_checkpoint(path), kind) == {(defect.check, defect.level)}
