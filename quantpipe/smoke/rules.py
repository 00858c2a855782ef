"""The rules that a serve profile has to keep, checked before anything starts.

Sources: the FAQ of vllm-ascend's tutorial on Qwen3-235B-A22B (expert parallel, YaRN, fused MC2, devices)
and vLLM's own division of heads over ranks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from quantpipe.errors import PreflightError, QuantpipeError, RecipeError
from quantpipe.host import machine as host
from quantpipe.recipe.serve import Serve
from quantpipe.recipe.smoke import Smoke
from quantpipe.smoke.model import ModelFigures
from quantpipe.text import human_bytes

DEVICES = {"a2": 8, "a3": 16}
"""Devices of one server: an A3 has 8 NPUs of two dies, each a device."""

VISIBLE = "ASCEND_RT_VISIBLE_DEVICES"
_WORKSPACE_BYTES = 2 << 30
"""What a device needs beside weights, at the very least: activations, graphs, HCCL buffers, a little KV."""


@dataclass(frozen=True)
class Problem:
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


def problems(smoke: Smoke, model: ModelFigures | None) -> list[Problem]:
    """Every rule that the profile breaks; rules that need figures which nobody has are not applied."""
    if smoke.launcher == "attach":
        return []
    figures = model or ModelFigures()
    return [problem for rule in _RULES for problem in rule(smoke, figures)]


def require_rules(smoke: Smoke, model: ModelFigures | None) -> None:
    """Refuse a profile that breaks a rule.

    Raises:
        RecipeError: the recipe is wrong; with all problems.
        PreflightError: this machine has too few devices or too little memory.
    """
    found = problems(smoke, model)
    if not found:
        return
    kind: type[QuantpipeError] = PreflightError if all(p.host for p in found) else RecipeError
    first = found[0]
    rest = [f"{p.rule}: {p.text} -> {p.fix}" for p in found] if len(found) > 1 else []
    what = f"{len(found)} rules are broken; the first: {first.text}" if rest else first.text
    raise kind(what, where=f"smoke.serve, rule {first.rule}", hint=first.fix, details=rest)


def _expert_parallel(smoke: Smoke, model: ModelFigures) -> Iterator[Problem]:
    serve = smoke.serve
    if smoke.launcher != "cpu" and model.experts and not serve.enable_expert_parallel and _ranks(serve) > 1:
        yield Problem(
            "expert-parallel",
            f"a model with {model.experts} experts is served over {_ranks(serve)} devices without "
            "expert parallel",
            "set smoke.serve.enable_expert_parallel: true",
        )


def _yarn(smoke: Smoke, model: ModelFigures) -> Iterator[Problem]:
    wanted, native = smoke.serve.max_model_len, model.native_length
    if not wanted:
        return
    given = smoke.serve.hf_overrides.get("rope_parameters") or smoke.serve.hf_overrides.get("rope_scaling")
    rope = given if isinstance(given, dict) else model.rope
    kind = rope.get("rope_type", rope.get("type"))
    if kind == "yarn":
        reach = _number(rope.get("factor")) * _number(rope.get("original_max_position_embeddings"))
        if 0 < reach < wanted:
            yield Problem(
                "yarn",
                f"YaRN reaches {reach:.0f} tokens, max_model_len is {wanted}",
                "raise rope_parameters.factor, or lower max_model_len",
            )
    elif native and wanted > native:
        yield Problem(
            "yarn",
            f"max_model_len {wanted} is beyond the model's native {native} tokens, without YaRN",
            "give smoke.serve.hf_overrides.rope_parameters (rope_type yarn, rope_theta, factor, "
            f"original_max_position_embeddings), or lower max_model_len to {native}",
        )


def _fused_mc2(smoke: Smoke, model: ModelFigures) -> Iterator[Problem]:
    value = smoke.serve.additional_config.get("enable_fused_mc2", 0)
    if not value or smoke.launcher == "cpu":
        return
    if value not in (1, 2):
        yield Problem(
            "fused-mc2",
            f"enable_fused_mc2 is {value!r}",
            "1 is for a typical expert parallel, 2 for a large one (32 ranks, say), 0 is off",
        )
    if smoke.hardware != "a3" or model.w8a8 is False:
        why = "the model is not W8A8" if model.w8a8 is False else f"smoke.hardware is {smoke.hardware}"
        yield Problem(
            "fused-mc2",
            f"enable_fused_mc2 works with W8A8 on A3 only, and {why}",
            "set smoke.hardware: a3 if that is what it is, or take enable_fused_mc2 out",
        )


def _divides(smoke: Smoke, model: ModelFigures) -> Iterator[Problem]:
    tp = smoke.serve.tensor_parallel_size
    fix = "choose another smoke.serve.tensor_parallel_size"
    if model.heads % tp:
        yield Problem("tp-divides", f"{model.heads} attention heads do not divide over {tp} ranks", fix)
    heads = model.kv_heads
    if heads and (heads % tp if heads >= tp else tp % heads):
        yield Problem("tp-divides", f"{heads} KV heads do not divide over {tp} ranks, nor the reverse", fix)
    whole_experts = smoke.serve.enable_expert_parallel
    if not whole_experts and model.moe_intermediate % tp:
        yield Problem(
            "tp-divides", f"experts {model.moe_intermediate} wide do not divide over {tp} ranks", fix
        )


def _devices(smoke: Smoke, model: ModelFigures) -> Iterator[Problem]:
    if smoke.launcher == "cpu":
        return
    need, listed = _ranks(smoke.serve), visible_devices(smoke)
    if listed is not None and len(listed) < need:
        yield Problem(
            "devices",
            f"tensor x data parallel is {need}, {VISIBLE} names {len(listed)} devices",
            f"name {need} devices in smoke.serve.environment.{VISIBLE}, or lower the parallel sizes",
        )
    has = DEVICES.get(smoke.hardware or "")
    if has is not None and max(need, 1 + max(listed or [0])) > has:
        yield Problem(
            "devices",
            f"the profile uses {need} devices up to number {max(listed or [need - 1])}, "
            f"an {smoke.hardware} server has {has}",
            "lower the parallel sizes, or correct smoke.hardware",
        )
    here = host.npus()
    if here and len(here) < need:
        yield Problem(
            "devices",
            f"tensor x data parallel is {need}, this machine shows {len(here)} devices",
            "run on a larger server, or map all devices into this container",
            host=True,
        )


def _weights_fit(smoke: Smoke, model: ModelFigures) -> Iterator[Problem]:
    if smoke.launcher == "cpu" or not model.weight_bytes:
        return
    share = smoke.serve.gpu_memory_utilization or 0.9
    room = share * smoke.device_memory * 2**30
    need = device_weight_bytes(smoke.serve, model) + _WORKSPACE_BYTES
    if need > room:
        yield Problem(
            "weights-fit",
            f"weights and workspace need {human_bytes(need)} of each device, "
            f"{share:g} of {smoke.device_memory:g} GiB is {human_bytes(room)}",
            "use more devices (tensor_parallel_size), or correct smoke.device_memory",
            host=True,
        )


_RULES: tuple[Callable[[Smoke, ModelFigures], Iterator[Problem]], ...] = (
    _expert_parallel,
    _yarn,
    _fused_mc2,
    _divides,
    _devices,
    _weights_fit,
)


def device_weight_bytes(serve: Serve, model: ModelFigures) -> float:
    """Bytes of weights on one device: experts over all ranks with expert parallel, the rest over tp."""
    tp = serve.tensor_parallel_size
    over = _ranks(serve) if serve.enable_expert_parallel else tp
    return model.expert_bytes / over + (model.weight_bytes - model.expert_bytes) / tp


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


def _ranks(serve: Serve) -> int:
    return serve.tensor_parallel_size * serve.data_parallel_size


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
