from __future__ import annotations

from pathlib import Path

import pytest

from quantpipe.verify.checks import all as every
from quantpipe.verify.checks.all import all_checks
from quantpipe.verify.checks.needs import MODEL, NEEDS
from quantpipe.verify.checks.registry import check
from verify.defects import DEFECTS

VERIFY = Path(__file__).resolve().parents[1]
ELSEWHERE = {
    "A10": "checks/test_layout",
    "C2": "checks/test_layout",
    "B13": "fidelity/test_compare",
    "C1": "test_standalone",
}


def test_all_checks_are_there() -> None:
    ids = [c.id for c in all_checks()]
    wanted = [*(f"A{n}" for n in range(1, 13)), *(f"B{n}" for n in range(1, 14)), "C1", "C2"]
    assert ids == wanted


def test_every_module_with_checks_is_imported() -> None:
    """One that is not would be silent: its checks would not run, and nothing would miss them."""
    folder = Path(every.__file__).parent
    with_checks = {path.stem for path in folder.glob("*.py") if "\n@check(" in path.read_text("utf-8")}
    assert {module.__name__.rpartition(".")[2] for module in every.MODULES} == with_checks


def test_each_check_says_what_goes_wrong_and_what_to_do() -> None:
    for c in all_checks():
        assert c.needs.name in {need.name for need in NEEDS}
        assert len(c.title) > 20
        assert len(c.effect) > 20
        assert len(c.fix) > 20
        assert not c.effect.endswith(".")


def test_each_check_has_a_planted_defect() -> None:
    planted = {defect.check for defect in DEFECTS}
    for c in all_checks():
        if c.id not in planted:
            text = (VERIFY / f"{ELSEWHERE[c.id]}.py").read_text()
            assert f'"{c.id}"' in text


def test_an_id_is_registered_once() -> None:
    with pytest.raises(ValueError, match="A1"):
        check("A1", needs=MODEL, effect="", fix="")
