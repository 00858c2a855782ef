"""A call fails, once or from then on, with each errno: the documented code, no traceback, a sound store."""

from __future__ import annotations

import errno
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from . import figures, shim
from .common import allowed, repeat, sample
from .conftest import LONG, POINTS
from .ground import Ground, short
from .hosts import Ended, Host
from .stages import CODES, FAILING, REPLAYED, STAGES, Stage

pytestmark = [pytest.mark.quantize_env, *([pytest.mark.slow] if LONG else [])]


@dataclass(frozen=True)
class Fault:
    """A call that fails: its kind, which of its kind from 1, the errno, and how (shim.FAIL and others)."""

    kind: str
    number: int
    error: int
    action: int

    def __str__(self) -> str:
        how = {shim.FAIL: "once", shim.FAIL_ON: "from then on", shim.FAIL_AFTER: "though it was done"}[
            self.action
        ]
        return f"{self.kind} {self.number} fails with {errno.errorcode[self.error]} {how}"


def faults(calls: list[tuple[str, str]], dice: random.Random) -> Iterator[Fault]:
    """Each call that may fail, kinds in turn, with the errnos in turn."""
    errors = {kind: itertools.cycle(dice.sample(sorted(CODES), len(CODES))) for kind in FAILING}
    numbers = [n for n in sample(calls, 0, dice) if calls[n - 1][0] in FAILING]
    for number in numbers:
        kind = calls[number - 1][0]
        of_kind = sum(call == kind for call, _ in calls[:number])
        yield fault_at(kind, of_kind, next(errors[kind]), dice)


def fault_at(kind: str, number: int, error: int, dice: random.Random) -> Fault:
    """Once, or, less often, from then on, or with an answer that is lost though the call was done."""
    if kind in REPLAYED and dice.random() < 0.2:
        return Fault(kind, number, dice.choice((errno.EIO, REPLAYED[kind])), shim.FAIL_AFTER)
    # A call that EINTR ends each time is repeated for ever, by Python itself.
    lasting = error != errno.EINTR and dice.random() < 0.3
    return Fault(kind, number, error, shim.FAIL_ON if lasting else shim.FAIL)


def require_documented(stage: Stage, fault: Fault, ended: Ended, *, fired: bool) -> None:
    """No traceback; the code of the fault, or that of success: a command can do without some calls."""
    assert not ended.crashed, short(ended)
    documented = {stage.status, *({CODES.get(fault.error, 75)} if fired else ())}
    if fault.action == shim.FAIL_AFTER:  # "File exists" may look like a filesystem that cannot do it
        documented.add(5)
    assert ended.status in documented, f"not {documented}: {short(ended)}"
    if stage.name != "scrub":  # that lists what it could not read
        assert "next:" in ended.text or ended.status == 0, short(ended)


def attack(ground: Ground, host: Host, stage: Stage, fault: Fault) -> bool:
    """Whether it fired."""
    store = ground.store(host, stage.state)
    between, after, flipped = allowed(ground, host, stage)
    argv = ground.argv(stage, store)
    page = ground.page(
        store, kinds=(fault.kind,), target=fault.number, action=fault.action, error=fault.error
    )
    ended = host.run(*argv, control=page)
    if "the server ended" in ended.text:  # the fault hit the server's own log
        assert ended.status == 4, short(ended)
    else:
        require_documented(stage, fault, ended, fired=page.fired > 0)
    ground.require_sound(store, [after] if ended.status == 0 else between, flipped=flipped)
    repeat(ground, host, stage, store, argv)
    ground.require_sound(store, [after], flipped=flipped if stage.name == "scrub" else None)
    ground.discard(store)
    return page.fired > 0


@pytest.mark.parametrize("stage", STAGES, ids=[stage.name for stage in STAGES])
def test_a_failing_call_ends_as_documented(ground: Ground, host: Host, stage: Stage, seed: int) -> None:
    dice = random.Random(f"{seed} {stage.name}")
    chosen = list(itertools.islice(faults(ground.calls(host, stage), dice), POINTS or None))
    problems = []
    for fault in chosen:
        try:
            figures.add(errnos=attack(ground, host, stage, fault))
        except (AssertionError, TimeoutError) as error:
            problems.append(f"{stage.name}: {fault}; seed {seed}: {error}")
    assert not problems, f"{len(problems)} of {len(chosen)}\n" + "\n\n".join(problems)
