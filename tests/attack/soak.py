"""Several hosts, one store, random commands and random ends, for as long as is asked."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from . import shim
from .ground import NAME, Ground, short
from .hosts import Host, Running
from .stages import RECIPES

CODES = {
    "run": {0, 11, 75},
    "rollback": {0, 2, 75},
    "prune": {0, 75},
    "scrub": {0, 75},
    "status": {0},
}
"""The exit codes that a command may have while others work on the same recipe."""


@dataclass
class Job:
    """A command that runs."""

    running: Running
    argv: tuple[str, ...]
    page: shim.Control
    killed: bool


@dataclass
class Soak:
    """The hosts and what they did.

    Args:
        cached: milliseconds for which the hosts remember attributes, as NFS clients do.
    """

    ground: Ground
    hosts: Sequence[Host]
    store: Path
    dice: random.Random
    cached: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def run(self, seconds: float) -> None:
        """Until the time is over; each host has one command at a time."""
        deadline = time.monotonic() + seconds
        jobs: dict[int, Job] = {}
        while time.monotonic() < deadline and not self.problems:
            for number, host in enumerate(self.hosts):
                if number not in jobs:
                    jobs[number] = self._start(host)
                elif jobs[number].running.over():
                    self._look(jobs.pop(number))
            if self.dice.random() < 0.005:
                self._age_lease()
            time.sleep(0.005)
        for job in jobs.values():
            self._look(job)

    def _start(self, host: Host) -> Job:
        argv = self._argv()
        killed = self.dice.random() < 0.3
        page = self.ground.page(
            self.store,
            target=self.dice.randint(1, 700) if killed else 0,
            action=shim.KILL_TREE if killed else 0,
            cached=self.cached,
        )
        return Job(host.start(*argv, "--store", self.store, control=page), argv, page, killed)

    def _argv(self) -> tuple[str, ...]:
        recipe = str(self.ground.recipes[self.dice.choice(RECIPES)])
        return self.dice.choices(
            (
                ("run", recipe),
                ("run", recipe, "--force", self.dice.choice(("quantize", "verify", "smoke", "publish"))),
                ("rollback", recipe),
                ("prune", "--yes"),
                ("scrub",),
                ("status",),
            ),
            weights=(6, 3, 2, 1, 1, 1),
        )[0]

    def _look(self, job: Job) -> None:
        ended = job.running.ended()
        verb = job.argv[0]
        if job.page.fired:
            self.ended["killed"] += 1
        elif ended.status not in CODES[verb] or ended.crashed:
            self.problems.append(f"{' '.join(job.argv)}: {short(ended)}")
        self.ended[verb] += 1
        with suppress(OSError):
            job.page.path.unlink()

    def _age_lease(self) -> None:
        """As if its holder had not been heard of for an hour."""
        then = time.time() - 3600
        with suppress(OSError):
            os.utime(self.store / "leases" / f"{NAME}.json", (then, then))
