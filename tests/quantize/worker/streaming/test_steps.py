from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from quantpipe.quantize.worker.protocol import STEPS
from quantpipe.quantize.worker.streaming.steps import SECONDS_APART, Estimate, Steps

from ..engines import MOE, SHORT, Quantizer


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_step_is_reported_at_its_beginning_now_and_then_and_at_its_end() -> None:
    sent: list[tuple[Any, ...]] = []
    clock = Clock()
    steps = Steps(lambda **fields: sent.append(tuple(fields.values())), clock)
    steps.begin("quantize", 1000)
    for _ in range(1000):
        clock.now += SECONDS_APART / 100
        steps.advance()
    assert sent[0] == ("quantize", 0, 1000)
    assert sent[-1] == ("quantize", 1000, 1000)
    assert 9 <= len(sent) <= 13
    steps.begin("write")
    assert sent[-1] == ("write", 0, 0)


@pytest.mark.parametrize("first", [1, 40])
def test_the_estimate_is_right_within_a_fifth_after_three_layers(first: int) -> None:
    """Also of a run that continues another one, whose layers took no time now."""
    chance = random.Random(7)
    clock = Clock()
    begins: dict[int, float] = {}
    found: dict[int, dict[str, Any]] = {}
    estimate = Estimate(94, clock)
    for index in range(first, 95):
        begins[index], found[index] = clock.now, estimate.layer(index)
        clock.now += 60 * chance.uniform(0.85, 1.15)
    assert found[first] == {}
    for index in range(first + 3, 95):
        assert found[index]["eta"] == pytest.approx(clock.now - begins[index], rel=0.2)


def test_a_run_reports_the_steps_of_each_layer(quantizer: Quantizer, tmp_path: Path) -> None:
    snapshot = quantizer.make(tmp_path / "model", **MOE)
    done = quantizer.run(snapshot, tmp_path / "out")
    assert done["status"] == 0
    events = [event for event in done["events"] if event["event"] in ("layer", "step")]
    begins = [number for number, event in enumerate(events) if event["event"] == "layer"]
    assert "eta" not in events[begins[0]]
    assert events[begins[1]]["eta"] > 0
    for begin, end in zip(begins, [*begins[1:], len(events)], strict=True):
        layer = events[begin + 1 : end]
        names = list(dict.fromkeys(event["name"] for event in layer))
        assert names == ["measure", *(name for name in STEPS if name != "measure")]
        last = {event["name"]: (event["done"], event["of"]) for event in layer}
        assert last["quantize"] == (4 + 3 * MOE["num_experts"],) * 2
        assert last["calibrate"] == (len(SHORT),) * 2
