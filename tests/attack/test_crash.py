"""Killed at the n-th durable call, each command leaves a sound store, and succeeds when it is repeated."""

from __future__ import annotations

import random

import pytest

from . import figures, shim
from .common import allowed, repeat, sample
from .conftest import LONG, POINTS
from .ground import NAME, Ground, short
from .hosts import Host, Reader, ends
from .stages import STAGES, Stage

pytestmark = [pytest.mark.quantize_env, *([pytest.mark.slow] if LONG else [])]


def attack(
    ground: Ground, host: Host, reader: Reader, stage: Stage, number: int, action: int, again: int
) -> int:
    """Kill at call `number` (and, if `again` is not 0, the next run at call `again`); returns the looks."""
    store = ground.store(host, stage.state)
    between, after, flipped = allowed(ground, host, stage)
    argv = ground.argv(stage, store)
    with reader.following(store / "models" / NAME) as looks:
        for target in (number, again) if again else (number,):
            page = ground.page(store, target=target, action=action)
            ended = host.run(*argv, control=page)
            if not page.fired:  # threads: fewer calls than in the run that was logged
                assert ended.status in (stage.status, *stage.again), short(ended)
                break
            assert all(map(ends, page.pids())), "a process outlived the kill"
            if action == shim.KILL_TREE:
                assert ended.status == -9, short(ended)
            ground.require_sound(store, between, flipped=flipped)
            status = host.run("status", "--store", store)
            assert status.status == 0 and not status.crashed, short(status)
        repeat(ground, host, stage, store, argv)
        if stage.name == "scrub":
            ground.require_sound(store, [after], flipped=flipped)
        else:
            ground.require_settled(store, after)
        repeat(ground, host, stage, store, argv)
    assert looks[0].wrong == []
    ground.discard(store)
    return looks[0].looks


@pytest.mark.parametrize("stage", STAGES, ids=[stage.name for stage in STAGES])
def test_killed_at_a_durable_call(
    ground: Ground, host: Host, reader: Reader, stage: Stage, seed: int
) -> None:
    dice = random.Random(f"{seed} {stage.name}")
    calls = ground.durable_calls(host, stage)
    for number in sample(calls, POINTS, dice):
        again = dice.randint(1, len(calls)) if dice.random() < 0.2 else 0
        only_caller = dice.random() < 0.1 and stage.name in ("quantize", "smoke")
        action = shim.KILL_CALLER if only_caller else shim.KILL_TREE
        try:
            looks = attack(ground, host, reader, stage, number, action, again)
        except BaseException as error:
            kind, path = calls[number - 1]
            error.args = (
                f"{stage.name} killed at call {number} ({kind} {path}), then {again}; seed {seed}: {error}",
            )
            raise
        figures.add(points_killed=1 + bool(again), looks_of_readers=looks)
