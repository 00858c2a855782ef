from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from quantpipe.verify.finding import Severity
from quantpipe.verify.verify import verify_checkpoint

pytestmark = pytest.mark.quantize_env
CopyOf = Callable[[str], Path]


@pytest.mark.parametrize("kind", ["v1-moe", "v1-moe-smooth", "v1-dense"])
@pytest.mark.parametrize("deep", [False, True])
def test_valid_v1_has_no_findings(copy_of: CopyOf, kind: str, deep: bool) -> None:
    report = verify_checkpoint(copy_of(kind), deep=deep)
    assert report.findings == ()
    assert report.ok
    assert ("B6" in report.passed) is deep


def test_v0_passes_with_notes(made: Path) -> None:
    report = verify_checkpoint(made / "v0-moe", deep=True)
    assert report.ok
    assert {f.id for f in report.findings} == {"A11", "B8", "B10"}
    assert {f.severity for f in report.findings} == {Severity.NOTE}


def test_bf16_is_one_clear_error(made: Path) -> None:
    report = verify_checkpoint(made / "bf16-moe", deep=True)
    assert [f.id for f in report.findings] == ["A1"]
    assert "not quantized" in report.findings[0].text
    assert not report.ok
