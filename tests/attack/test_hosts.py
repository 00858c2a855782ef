"""Two hosts on one store: one is killed, asleep or slow at a call; what the other does meanwhile stands.

In namespaces of their own (process ids, host names) where that is allowed; else by names alone.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from . import figures, shim
from .common import sample
from .conftest import LONG, POINTS
from .ground import NAME, Ground, current, short
from .hosts import Ended, Host, Reader, Running, namespaces
from .stages import BY_NAME, Stage

pytestmark = [pytest.mark.quantize_env, *([pytest.mark.slow] if LONG else [])]

LAPSE = 0.6
"""Seconds until a lease lapses, instead of 120."""

Mode = Literal["killed", "asleep", "slow"]
MODES: tuple[Mode, ...] = ("killed", "asleep", "slow")
FIRST = ("quantize", "verify", "smoke", "republish", "retire", "rollback", "prune")
SECOND = ("same", "other", "rollback", "prune", "scrub")


@dataclass(frozen=True)
class Race:
    """One meeting of two hosts."""

    stage: Stage
    number: int
    mode: Mode
    second: str

    def __str__(self) -> str:
        return f"{self.stage.name} {self.mode} at call {self.number}, then {self.second}"


@pytest.fixture(scope="module")
def hosts(ground: Ground) -> Iterator[tuple[Host, Host]]:
    separate = namespaces()
    with (
        Host(ground.own, ground.library, "one", separate=separate, lapse=LAPSE) as one,
        Host(ground.own, ground.library, "two", separate=separate, lapse=LAPSE) as two,
    ):
        yield one, two


def second_argv(ground: Ground, race: Race, store: Path) -> list[str]:
    """What the second host does; "other" is the recipe whose result is not current."""
    other = {"republish": "c", "retire": "a", "rollback": "c", "prune": "c"}.get(race.stage.name, "b")
    return {
        "same": ground.argv(race.stage, store),
        "other": ["run", str(ground.recipes[other]), "--store", str(store)],
        "rollback": ["rollback", str(ground.recipes["a"]), "--store", str(store)],
        "prune": ["prune", "--yes", "--store", str(store)],
        "scrub": ["scrub", "--store", str(store)],
    }[race.second]


def stop(running: Running, mode: Mode) -> None:
    if mode == "killed":
        running.signal(signal.SIGKILL)
    elif mode == "asleep":
        running.signal(signal.SIGSTOP)


def go_on(running: Running, page: shim.Control, mode: Mode) -> Ended:
    page.proceed()
    if mode == "asleep":
        running.signal(signal.SIGCONT)
    return running.ended()


def meet(ground: Ground, hosts: tuple[Host, Host], reader: Reader, race: Race) -> None:
    one, two = hosts
    store = ground.store(one, race.stage.state)
    page = ground.page(store, target=race.number, action=shim.PAUSE)
    with reader.following(store / "models" / NAME) as looks:
        first = one.start(*ground.argv(race.stage, store), control=page)
        if not first.waits():
            assert first.ended().status == race.stage.status
            return
        stop(first, race.mode)
        before = current(store)
        argv = second_argv(ground, race, store)
        deadline = time.monotonic() + 20 * LAPSE
        while (second := two.run(*argv, control=ground.page(store))).status == 11:
            assert not second.crashed, short(second)
            if race.mode == "slow":  # it is alive, and says so
                break
            assert time.monotonic() < deadline, "the lease does not lapse: " + short(second)
            time.sleep(LAPSE / 4)
        assert second.status in ({0, 11, 75, 2} if race.second == "rollback" else {0, 11, 75}), short(second)
        assert not second.crashed, short(second)
        named = current(store)
        ended = go_on(first, page, race.mode)
        if race.mode != "killed":
            assert ended.status in (0, 75, *race.stage.again) and not ended.crashed, short(ended)
        moved = second.status == 0 and named != before
        if moved and (race.mode != "slow" or race.second == "rollback"):
            assert current(store) == named, f"the first one overwrote it: {short(ended)}"
        digests = ground.digests(one)
        ground.require_sound(store, [None, *digests])
        time.sleep(LAPSE if race.mode == "killed" else 0)
        last = two.run("run", ground.recipes["c"], "--store", store, control=ground.page(store))
        assert last.status == 0, short(last)
        if "has rolled back" not in last.text and "held" not in last.text:
            ground.require_sound(store, [digests[2]])
    assert looks[0].wrong == []
    figures.add(meetings_of_hosts=1, looks_of_readers=looks[0].looks)
    ground.discard(store)


def races(ground: Ground, host: Host, dice: random.Random) -> Iterator[Race]:
    for name in FIRST:
        stage = BY_NAME[name]
        calls = ground.durable_calls(host, stage)
        for second in SECOND:
            for mode in MODES:
                for number in sample(calls, max(1, POINTS // 25), dice):
                    yield Race(stage, number, mode, second)


def test_what_the_second_host_did_stands(
    ground: Ground, host: Host, hosts: tuple[Host, Host], reader: Reader, seed: int
) -> None:
    dice = random.Random(seed)
    every = list(races(ground, host, dice))
    chosen = every if LONG else dice.sample(every, 3)
    problems = []
    for race in chosen:
        try:
            meet(ground, hosts, reader, race)
        except (AssertionError, TimeoutError) as error:
            problems.append(f"{race}; seed {seed}: {error}")
    assert not problems, f"{len(problems)} of {len(chosen)}\n" + "\n\n".join(problems)
