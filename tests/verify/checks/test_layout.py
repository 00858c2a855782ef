"""A10 and C2, and A2 as far as it is about the layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from quantpipe.checkpoint.layout import GIB, Layout
from quantpipe.verify.verify import verify_checkpoint

pytestmark = pytest.mark.quantize_env


def test_broken_rule_is_a10_alone(copy_of: Callable[[str], Path]) -> None:
    layout = Layout(tp=3, ep=True, device_memory=GIB)
    report = verify_checkpoint(copy_of("v1-moe"), layout=layout)
    assert {f.id for f in report.findings} == {"A10"}
    assert "C2" in report.skipped


def test_weights_that_do_not_fit(copy_of: Callable[[str], Path]) -> None:
    report = verify_checkpoint(copy_of("v1-moe"), layout=Layout(device_memory=100_000))
    assert [(f.id, f.severity.value) for f in report.findings] == [("C2", "error")]
    report = verify_checkpoint(copy_of("v1-dense"), layout=Layout(device_memory=GIB))
    assert [(f.id, f.severity.value) for f in report.findings] == [("C2", "warning")]


def test_room_is_reported(copy_of: Callable[[str], Path]) -> None:
    report = verify_checkpoint(copy_of("v1-moe"), layout=Layout(tp=2, ep=True, device_memory=64 * GIB))
    assert report.findings == ()
    assert report.figures["memory"]["verdict"] == "fits"
    assert any("64" not in line and "tokens of KV cache" in line for line in report.lines())


def test_fused_mc2_without_its_switch(copy_of: Callable[[str], Path]) -> None:
    report = verify_checkpoint(copy_of("v1-moe"), layout=Layout(fused_mc2=True))
    assert [(f.id, f.severity.value) for f in report.findings] == [("A2", "warning")]
