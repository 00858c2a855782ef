from __future__ import annotations

from quantpipe.verify.finding import Defect, Severity, fold_names, group_defects


def test_a_missing_expert_in_94_layers_is_one_line() -> None:
    names = [
        f"model.layers.{layer}.mlp.experts.7.{part}.{suffix}"
        for layer in range(94)
        for part in ("gate_proj", "up_proj")
        for suffix in ("weight", "weight_scale")
    ]
    defects = [Defect(name, "a tensor is missing") for name in names]
    (finding,) = group_defects("B1", Severity.ERROR, "effect", "fix", defects)
    assert finding.count == 376
    assert finding.where == (
        "model.layers.{0-93}.mlp.experts.7."
        "{gate_proj.weight,gate_proj.weight_scale,up_proj.weight,up_proj.weight_scale}",
    )


def test_folding_keeps_different_sets_apart() -> None:
    names = [
        "lm_head.weight",
        "model.layers.3.a.weight",
        "model.layers.5.a.weight",
        "model.layers.5.b.weight",
    ]
    assert fold_names(names) == ["lm_head.weight", "model.layers.{3,5}.a.weight", "model.layers.5.b.weight"]


def test_folding_is_bounded() -> None:
    names = [f"model.layers.{layer}.x{layer}.weight" for layer in range(500)]
    (finding,) = group_defects("B1", Severity.ERROR, "", "", [Defect(name, "t") for name in names])
    assert finding.count == 500
    assert len(finding.where) == 13
    assert finding.where[-1] == "and 488 more"


def test_texts_and_levels_are_grouped_apart() -> None:
    defects = [
        Defect("a", "one", "1.0"),
        Defect("b", "two"),
        Defect("c", "one", "2.0"),
        Defect("d", "one", severity=Severity.NOTE),
    ]
    findings = group_defects("B5", Severity.ERROR, "", "", defects)
    assert [(f.text, f.severity.value, f.where, f.detail) for f in findings] == [
        ("one", "error", ("a", "c"), "1.0"),
        ("two", "error", ("b",), ""),
        ("one", "note", ("d",), ""),
    ]
    assert findings[0].line() == "B5 error: one: 1.0 [a, c] (2 places)"
