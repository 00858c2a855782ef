"""Three hosts work on one recipe at once, get killed, and lose leases; readers look on."""

from __future__ import annotations

import os
import random
import time
from contextlib import ExitStack

import pytest

from . import figures
from .conftest import LONG
from .ground import NAME, Ground, short
from .hosts import Host, Reader, namespaces
from .soak import Soak

pytestmark = [pytest.mark.quantize_env, *([pytest.mark.slow] if LONG else [])]

MINUTES = float(os.environ.get("ATTACK_MINUTES", "6" if LONG else "0.07"))
LAPSE = 1.0


@pytest.mark.parametrize("cached", [0, 700], ids=["local", "attributes remembered"])
def test_three_hosts_at_once(ground: Ground, host: Host, seed: int, cached: int) -> None:
    """With `cached`, hosts see attributes and links of up to 0.7 s ago, as on NFS."""
    store = ground.store(host, "two")
    names = ("one", "two", "three")
    with ExitStack() as stack:
        hosts = [
            stack.enter_context(Host(ground.own, ground.library, name, separate=namespaces(), lapse=LAPSE))
            for name in names
        ]
        readers = [stack.enter_context(Reader(0.0 if LONG else 0.01)) for _ in range(2 if LONG else 1)]
        with ExitStack() as looking:
            looks = [looking.enter_context(each.following(store / "models" / NAME)) for each in readers]
            soak = Soak(ground, hosts, store, random.Random(seed), cached)
            soak.run(MINUTES * 60)
        time.sleep(LAPSE)
        last = hosts[0].run("run", ground.recipes["c"], "--store", store, control=ground.page(store))
    assert soak.problems == [], f"seed {seed}\n" + "\n".join(soak.problems)
    for found in looks:
        assert found[0].wrong == [], f"seed {seed}"
        figures.add(looks_of_readers=found[0].looks)
    assert last.status == 0, f"seed {seed}: {short(last)}"
    ground.require_sound(store, ground.digests(host))
    commands = sum(soak.ended.values()) - soak.ended["killed"]
    figures.add(minutes_of_soak=MINUTES, commands_of_soak=commands, killed_in_soak=soak.ended["killed"])
    ground.discard(store)
