"""What attacks on one command share: which points, what may be current, the repetition."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import zip_longest
from pathlib import Path

from .ground import Ground, current, short
from .hosts import Host
from .stages import Stage


def sample(calls: list[tuple[str, str]], count: int, dice: random.Random) -> list[int]:
    """Numbers of calls, from 1: kinds in turn, so that rare ones are not missed; all if `count` is 0."""
    by_kind = defaultdict(list)
    for number, (kind, _) in enumerate(calls, 1):
        by_kind[kind].append(number)
    for numbers in by_kind.values():
        dice.shuffle(numbers)
    kinds = dice.sample(sorted(by_kind), len(by_kind))
    turns = zip_longest(*(by_kind[kind] for kind in kinds))
    chosen = [number for turn in turns for number in turn if number is not None]
    return chosen[:count] if count else chosen


def repeat(ground: Ground, host: Host, stage: Stage, store: Path, argv: list[str]) -> None:
    """The same command again succeeds."""
    ended = host.run(*argv, control=ground.page(store))
    assert ended.status in (stage.status, *stage.again) and not ended.crashed, short(ended)


def allowed(ground: Ground, host: Host, stage: Stage) -> tuple[list[str | None], str | None, str | None]:
    """What may be current meanwhile, what is current in the end, and which generation is flipped."""
    before = current(ground.make(host, stage.state))
    digest = ground.digest(host, stage.recipe)
    after = digest if stage.argv[0] != "run" or "--until" not in stage.argv else before
    flipped = None if stage.flipped is None else ground.digest(host, stage.flipped)
    return [before, after], after, flipped
