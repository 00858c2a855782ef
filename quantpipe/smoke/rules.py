"""The rules that a serve profile has to keep, checked before anything starts.

Source: the FAQ of vllm-ascend's tutorial on Qwen3-235B-A22B (expert parallel, YaRN, fused MC2, devices).
What divides, and what each device holds, is asked of `quantpipe.checkpoint.layout`, as verify does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from quantpipe.checkpoint.layout import GIB, Layout, device_bytes, indivisible, layout_of_serve
from quantpipe.errors import PreflightError, QuantpipeError, RecipeError
from quantpipe.host import machine
from quantpipe.recipe.smoke import Smoke
from quantpipe.smoke.model import ModelFigures
from quantpipe.text import human_bytes

DEVICES = {"a2": 8, "a3": 16}
"""Devices of one server: an A3 has 8 NPUs of two dies, each a device."""

VISIBLE = "ASCEND_RT_VISIBLE_DEVICES"
_WORKSPACE_BYTES = 2 * GIB
"""What a device needs beside weights, at the very least: activations, graphs, HCCL buffers, a little KV."""


@dataclass(frozen=True)
class BrokenRule:
    """A rule that a profile breaks.

    Attributes:
        rule: its name, as in docs/smoke.md.
        text: what is wrong.
        fix: what to do.
        host: not the recipe but this machine is the reason.
    """

    rule: str
    text: str
    fix: str
    host: bool = False


def broken_rules(smoke: Smoke, model: ModelFigures | None) -> list[BrokenRule]:
    """Every rule that the profile breaks; rules that need figures which nobody has are not applied."""
    if smoke.launcher == "attach":
        return []
    figures = model or ModelFigures()
    return [broken for rule in _RULES for broken in rule(smoke, figures)]


def require_rules(smoke: Smoke, model: ModelFigures | None) -> None:
    """Refuse a profile that breaks a rule.

    Raises:
        RecipeError: the recipe is wrong; with all that it breaks.
        PreflightError: this machine has too few devices or too little memory.
    """
    found = broken_rules(smoke, model)
    if not found:
        return
    kind: type[QuantpipeError] = PreflightError if all(p.host for p in found) else RecipeError
    first = found[0]
    rest = [f"{p.rule}: {p.text} -> {p.fix}" for p in found] if len(found) > 1 else []
    what = f"{len(found)} rules are broken; the first: {first.text}" if rest else first.text
    raise kind(what, where=f"smoke.serve, rule {first.rule}", hint=first.fix, details=rest)


def _expert_parallel(smoke: Smoke, model: ModelFigures) -> Iterator[BrokenRule]:
    experts = model.dims.experts if model.dims is not None else 0
    layout = _layout(smoke)
    if smoke.launcher != "cpu" and experts and not layout.ep and layout.devices > 1:
        yield BrokenRule(
            "expert-parallel",
            f"a model with {experts} experts is served over {layout.devices} devices without expert parallel",
            "set smoke.serve.enable_expert_parallel: true",
        )


def _yarn(smoke: Smoke, model: ModelFigures) -> Iterator[BrokenRule]:
    wanted, native = smoke.serve.max_model_len, model.native_length
    if not wanted:
        return
    given = smoke.serve.hf_overrides.get("rope_parameters") or smoke.serve.hf_overrides.get("rope_scaling")
    rope = given if isinstance(given, dict) else model.rope
    kind = rope.get("rope_type", rope.get("type"))
    if kind == "yarn":
        reach = _number(rope.get("factor")) * _number(rope.get("original_max_position_embeddings"))
        if 0 < reach < wanted:
            yield BrokenRule(
                "yarn",
                f"YaRN reaches {reach:.0f} tokens, max_model_len is {wanted}",
                "raise rope_parameters.factor, or lower max_model_len",
            )
    elif native and wanted > native:
        yield BrokenRule(
            "yarn",
            f"max_model_len {wanted} is beyond the model's native {native} tokens, without YaRN",
            "give smoke.serve.hf_overrides.rope_parameters (rope_type yarn, rope_theta, factor, "
            f"original_max_position_embeddings), or lower max_model_len to {native}",
        )


def _fused_mc2(smoke: Smoke, model: ModelFigures) -> Iterator[BrokenRule]:
    value = smoke.serve.additional_config.get("enable_fused_mc2", 0)
    if not value or smoke.launcher == "cpu":
        return
    if value not in (1, 2):
        yield BrokenRule(
            "fused-mc2",
            f"enable_fused_mc2 is {value!r}",
            "1 is for a typical expert parallel, 2 for a large one (32 ranks, say), 0 is off",
        )
    if smoke.hardware != "a3" or model.w8a8 is False:
        why = "the model is not W8A8" if model.w8a8 is False else f"smoke.hardware is {smoke.hardware}"
        yield BrokenRule(
            "fused-mc2",
            f"enable_fused_mc2 works with W8A8 on A3 only, and {why}",
            "set smoke.hardware: a3 if that is what it is, or take enable_fused_mc2 out",
        )


def _divides(smoke: Smoke, model: ModelFigures) -> Iterator[BrokenRule]:
    if model.dims is None:
        return
    for text, numbers in indivisible(model.dims, _layout(smoke)):
        yield BrokenRule("divides", f"{text}: {numbers}", "choose parallel sizes in smoke.serve that divide")


def _devices(smoke: Smoke, model: ModelFigures) -> Iterator[BrokenRule]:
    if smoke.launcher == "cpu":
        return
    need, listed = _layout(smoke).devices, visible_devices(smoke)
    if listed is not None and len(listed) < need:
        yield BrokenRule(
            "devices",
            f"tensor x data parallel is {need}, {VISIBLE} names {len(listed)} devices",
            f"name {need} devices in smoke.serve.environment.{VISIBLE}, or lower the parallel sizes",
        )
    has = DEVICES.get(smoke.hardware or "")
    if has is not None and max(need, 1 + max(listed or [0])) > has:
        yield BrokenRule(
            "devices",
            f"the profile uses {need} devices up to number {max(listed or [need - 1])}, "
            f"an {smoke.hardware} server has {has}",
            "lower the parallel sizes, or correct smoke.hardware",
        )
    here = machine.npus()
    if here and len(here) < need:
        yield BrokenRule(
            "devices",
            f"tensor x data parallel is {need}, this machine shows {len(here)} devices",
            "run on a larger server, or map all devices into this container",
            host=True,
        )


def _weights_fit(smoke: Smoke, model: ModelFigures) -> Iterator[BrokenRule]:
    if smoke.launcher == "cpu" or not model.weight_bytes:
        return
    layout = _layout(smoke)
    room = layout.utilization * smoke.device_memory * GIB
    need = device_bytes(model.dims, layout, model.weight_bytes) + _WORKSPACE_BYTES
    if need > room:
        yield BrokenRule(
            "weights-fit",
            f"weights and workspace need {human_bytes(need)} of each device, "
            f"{layout.utilization:g} of {smoke.device_memory:g} GiB is {human_bytes(room)}",
            "use more devices (tensor_parallel_size), or correct smoke.device_memory",
            host=True,
        )


_RULES: tuple[Callable[[Smoke, ModelFigures], Iterator[BrokenRule]], ...] = (
    _expert_parallel,
    _yarn,
    _fused_mc2,
    _divides,
    _devices,
    _weights_fit,
)


def _layout(smoke: Smoke) -> Layout:
    return layout_of_serve(smoke.serve)


def visible_devices(smoke: Smoke) -> list[int] | None:
    """The numbers that ASCEND_RT_VISIBLE_DEVICES lists, for the server; None where it is not set.

    In a container only the recipe's own counts: the caller's is not passed on.
    """
    text = smoke.serve.environment.get(VISIBLE)
    if text is None and smoke.launcher == "native":
        text = os.environ.get(VISIBLE)
    if text is None:
        return None
    return [int(part) for part in text.split(",") if part.strip().isdigit()]


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
