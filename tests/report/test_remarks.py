"""What to know before serving: each cause with its weight, the gravest first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from helpers.receipts import SMOKE_FIGURES
from helpers.reports import quality

from quantpipe.report.document import Change, Changes, Gate, Remark
from quantpipe.report.remarks import remarks

SMOKE = replace(SMOKE_FIGURES, launcher="native")
GOOD = replace(quality(), unreached_experts=())


def made(**changes: Any) -> tuple[Remark, ...]:
    arguments = {
        "state": "current",
        "held": False,
        "damage": (),
        "verify": {},
        "smoke": SMOKE,
        "quality": GOOD,
        "gates": (Gate("max_kl", 1.0, 0.02, True),),
        "changes": None,
    }
    return remarks(**{**arguments, **changes})


def only(**changes: Any) -> tuple[str, str]:
    [found] = made(**changes)
    return found.weight, found.text


def test_nothing_where_all_is_well() -> None:
    assert made() == ()


def test_each_cause_has_its_weight() -> None:
    for changes, weight, said in (
        ({"damage": ("a is missing",)}, "problem", "a is missing"),
        ({"held": True, "state": "held"}, "problem", "rolled back"),
        ({"state": "published earlier"}, "note", "not current any more"),
        ({"verify": {"counts": {"warning": 2}}}, "caution", "2 warnings"),
        ({"verify": {"skipped": {"B13": "the source"}}}, "note", "Check B13 could not run"),
        ({"smoke": replace(SMOKE, launcher="cpu")}, "caution", "has not been loaded on an NPU"),
        ({"smoke": replace(SMOKE, unverified=True)}, "caution", "is not proved"),
        ({"smoke": replace(SMOKE, known=0, matched=0)}, "caution", "No probe has a known answer"),
        ({"smoke": replace(SMOKE, known=3)}, "caution", "2 of 3 probes"),
        ({"smoke": replace(SMOKE, probes=({"fault": "garbage"},))}, "caution", "1 answer cannot be right"),
        ({"gates": (Gate("min_top1", 0.9, 0.8, False),)}, "problem", "gate min_top1 fails: 0.8, the limit"),
        ({"quality": None}, "caution", "was not measured"),
        ({"quality": quality()}, "caution", "reached 2 experts"),
        ({"quality": replace(GOOD, perplexity_bf16=924_585.0)}, "caution", "perplexity 924,585"),
    ):
        found = only(**changes)
        assert found[0] == weight and said in found[1], (changes, found)


def test_a_rise_of_the_divergence_is_said_from_a_quarter_on() -> None:
    def rise(before: float) -> Changes:
        return Changes("d" * 64, known=True, items=(Change("quality", "kl_mean", before, 0.02),))

    assert "rose from 0.0150 to 0.0200" in only(changes=rise(0.015))[1]
    assert made(changes=rise(0.017)) == ()


def test_the_gravest_comes_first() -> None:
    found = made(state="published earlier", held=True, smoke=replace(SMOKE, launcher="cpu"))
    assert [remark.weight for remark in found] == ["problem", "caution", "note"]
