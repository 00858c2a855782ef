"""Too little memory, a disk or its inodes that run out in the middle, clocks that are days off."""

from __future__ import annotations

import calendar
import os
import random
import shutil
import time
from contextlib import suppress
from pathlib import Path

import pytest

from . import figures, shim
from .common import allowed, repeat
from .conftest import LONG, POINTS
from .ground import Ground, current, short
from .hosts import Host, namespaces
from .stages import BY_NAME, RECIPES

pytestmark = [pytest.mark.quantize_env, *([pytest.mark.slow] if LONG else [])]
STAGES = ("fetch", "quantize", "verify", "smoke", "publish", "republish", "rollback", "scrub")
DAY = 24 * 3600


def test_memory_runs_out(ground: Ground, host: Host, seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(60 if LONG else 2):
        stage, memory = BY_NAME[dice.choice(STAGES)], dice.randint(1, 120) << 20
        store = ground.store(host, stage.state)
        between, after, flipped = allowed(ground, host, stage)
        argv = ground.argv(stage, store)
        ended = host.run(*argv, control=ground.page(store), memory=memory)
        where = f"{stage.name} with {memory >> 20} MiB; seed {seed}"
        # The fakes of worker and server have tracebacks of their own, in logs.
        quiet = "unexpected" not in ended.text or stage.name in ("quantize", "smoke", "republish")
        assert quiet, f"{where}: {short(ended)}"
        assert ended.status in (stage.status, 5, 75, 4, 1), f"{where}: {short(ended)}"
        ground.require_sound(store, between, flipped=flipped)
        repeat(ground, host, stage, store, argv)
        ground.require_sound(store, [after], flipped=flipped)
        figures.add(memory_limits=1)
        ground.discard(store)


def fill(disk: Path, what: str) -> Path:
    """Take all space, or all inodes."""
    filler = disk / "filler"
    if what == "space":
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free // 4096 * 4096)
    else:
        filler.mkdir()
        with suppress(OSError):
            for number in range(100_000):
                (filler / str(number)).touch()
    return filler


@pytest.mark.parametrize("what", ["space", "inodes"])
def test_a_disk_runs_out_in_the_middle(ground: Ground, host: Host, seed: int, what: str) -> None:
    if os.geteuid() != 0 or not namespaces():
        pytest.skip("a filesystem of its own needs root")
    dice = random.Random(f"{seed} {what}")
    disk = ground.own / "disk"
    with Host(ground.own, ground.library, "small", separate=True, disk="size=128m,nr_inodes=2000") as small:
        assert small.run("--version").status == 0  # its disk is there now
        for _ in range(max(2, POINTS // 2) if LONG else 1):
            stage = BY_NAME[dice.choice(("fetch", "quantize", "verify", "publish", "republish", "rollback"))]
            seen = small.seen(disk) / "store"
            shutil.copytree(ground.make(host, stage.state), seen, symlinks=True)
            between, after, _ = allowed(ground, host, stage)
            calls = ground.durable_calls(host, stage)
            page = ground.page(disk / "store", target=dice.randint(1, len(calls)), action=shim.PAUSE)
            argv = ground.argv(stage, disk / "store")
            running = small.start(*argv, control=page)
            waits = running.waits()
            filler = fill(seen.parent, what)
            page.proceed()
            ended = running.ended()
            where = f"{stage.name} at call {page.page.target} of {len(calls)}, {waits}; seed {seed}"
            assert ended.status in (0, 5) and not ended.crashed, f"{where}: {short(ended)}"
            ground.require_sound(seen, between)
            if filler.is_dir():
                shutil.rmtree(filler)
            else:
                filler.unlink()
            again = small.run(*argv, control=ground.page(disk / "store"))
            assert again.status in (0, *stage.again), f"{where}: {short(again)}"
            ground.require_settled(seen, after)
            shutil.rmtree(seen)
            figures.add(disks_filled=1)


LEAP_DAY = calendar.timegm((2028, 2, 29, 23, 59, 58))


def test_clocks_that_are_days_off(ground: Ground, host: Host, seed: int) -> None:
    """Two days ahead, two behind, the last seconds of a leap day; in several time zones."""
    dice = random.Random(seed)
    offsets = [2 * DAY, -2 * DAY, int(LEAP_DAY - time.time())]
    zones = ["UTC", "Asia/Kolkata", "America/St_Johns", "Pacific/Kiritimati"]
    store = ground.store(host, "empty")
    for letter in dice.sample(RECIPES, 3 if LONG else 2):
        clock, zone = dice.choice(offsets), dice.choice(zones)
        argv = ("run", ground.recipes[letter], "--store", store)
        killed = ground.page(store, clock=clock, target=dice.randint(700, 900), action=shim.KILL_TREE)
        host.run(*argv, control=killed, TZ=zone)
        # The next host's clock is right: it goes on where the first one was.
        done = host.run(*argv, control=ground.page(store))
        assert done.status == 0, f"{letter}, clock {clock} in {zone}; seed {seed}: {short(done)}"
        assert current(store) == ground.digest(host, letter)
        for verb in (("prune", "--yes"), ("status",), ("run", argv[1])):
            page = ground.page(store, clock=9 * DAY)
            ended = host.run(*verb, "--store", store, control=page, TZ=zone)
            assert ended.status == 0 and not ended.crashed, f"{verb}; seed {seed}: {short(ended)}"
        ground.require_settled(store, ground.digest(host, letter))
    ground.discard(store)
