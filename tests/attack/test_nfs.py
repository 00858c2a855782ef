"""What NFS and other filesystems do differently: silly renames, stale files, names without case."""

from __future__ import annotations

import random
import signal

import pytest

from . import figures, shim
from .common import allowed, repeat
from .conftest import LONG
from .ground import NAME, Ground, current, generations, short
from .hosts import Host
from .stages import BY_NAME

pytestmark = [pytest.mark.quantize_env, *([pytest.mark.slow] if LONG else [])]


@pytest.mark.parametrize("name", ["retire", "heal", "prune"] if LONG else ["retire"])
def test_files_that_a_server_here_has_open_stay_as_nfs_files(ground: Ground, host: Host, name: str) -> None:
    """Their folder cannot be removed (ENOTEMPTY): the run has published all the same."""
    stage = BY_NAME[name]
    store = ground.store(host, stage.state)
    _, after, flipped = allowed(ground, host, stage)
    ended = host.run(*ground.argv(stage, store), control=ground.page(store, held=".safetensors"))
    assert ended.status == stage.status and not ended.crashed, short(ended)
    ground.require_sound(store, [after], flipped=flipped)
    left = [path for path in store.rglob(".nfs*") if NAME in path.parts]
    assert left, "nothing was held: the test shows nothing"
    kept = generations(store)
    assert not any(path.is_relative_to(generation) for path in left for generation in kept)
    ground.discard(store)


def test_a_generation_that_another_host_removed_under_an_open_file(ground: Ground, host: Host) -> None:
    """ESTALE in the middle of a scrub, since retention on another host removed what it reads."""
    store = ground.store(host, "third")
    oldest = ground.digest(host, "a")
    page = ground.page(
        store, kinds=("read",), wanted=f"{oldest}/model", target=2, action=shim.PAUSE, stale=True
    )
    scrub = host.start("scrub", "--store", store, control=page)
    assert scrub.waits()
    with Host(ground.own, ground.library, "two") as two:
        published = two.run("run", ground.recipes["c"], "--store", store, control=ground.page(store))
    assert published.status == 0, short(published)
    assert oldest not in [path.name for path in generations(store)]
    page.proceed()
    ended = scrub.ended()
    assert ended.status == 0 and not ended.crashed, short(ended)
    ground.discard(store)


@pytest.mark.parametrize("action", ["killed", "done"])
def test_names_that_do_not_differ_by_case_alone(ground: Ground, host: Host, seed: int, action: str) -> None:
    """A store on a filesystem without case, as CIFS and some ZFS datasets are."""
    store = ground.store(host, "published")
    dice = random.Random(seed)
    stage = BY_NAME["republish"]
    argv = ground.argv(stage, store)
    if action == "killed":
        host.run(
            *argv,
            control=ground.page(store, folding=True, target=dice.randint(1, 900), action=shim.KILL_TREE),
        )
    done = host.run(*argv, control=ground.page(store, folding=True))
    assert done.status == 0, f"seed {seed}: {short(done)}"
    back = host.run(*ground.argv(BY_NAME["rollback"], store), control=ground.page(store, folding=True))
    assert back.status == 0, f"seed {seed}: {short(back)}"
    ground.require_sound(store, [ground.digest(host, "a")])
    ground.discard(store)


@pytest.mark.parametrize("name", ["verify", "scrub", "republish"] if LONG else ["verify"])
def test_a_shard_that_is_truncated_while_it_is_read(ground: Ground, host: Host, name: str) -> None:
    stage = BY_NAME[name]
    store = ground.store(host, stage.state)
    place = {"verify": "checkpoint/", "scrub": f"{current(store)}/", "republish": ""}[name]
    page = ground.page(store, kinds=("read",), wanted=f"{place}model-00003", target=1, action=shim.PAUSE)
    running = host.start(*ground.argv(stage, store), control=page)
    assert running.waits()
    folder = "sources/local" if name == "republish" else "*"
    shard = next(store.glob(f"{folder}/**/{place}model-00003*.safetensors"))
    shard.chmod(0o644)
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size // 2)
    page.proceed()
    ended = running.ended()
    assert not ended.crashed, short(ended)
    if name != "republish":
        assert ended.status == 3, short(ended)
    else:  # fetch looks at the snapshot again, and fixes it
        assert ended.status in (0, 3), short(ended)
        repeat(ground, host, stage, store, ground.argv(stage, store))
    assert current(store) in (None, ground.digest(host, "a"), ground.digest(host, "b"))
    ground.discard(store)


def test_interrupted_at_a_call(ground: Ground, host: Host, seed: int) -> None:
    """SIGTERM and Ctrl-C while a call waits: 75 and 130, and the next run goes on."""
    dice = random.Random(seed)
    count = 30 if LONG else 1
    for _ in range(count):
        number = dice.choice((signal.SIGINT, signal.SIGTERM))
        stage = BY_NAME[dice.choice(("fetch", "quantize", "verify", "smoke", "publish", "republish"))]
        calls = ground.durable_calls(host, stage)
        store = ground.store(host, stage.state)
        between, after, _ = allowed(ground, host, stage)
        target = dice.randint(1, len(calls))
        page = ground.page(store, target=target, action=shim.PAUSE)
        running = host.start(*ground.argv(stage, store), control=page)
        where = f"{stage.name} at call {target} {calls[target - 1]}, {number.name}; seed {seed}"
        if running.waits():
            running.interrupt(number)
            page.proceed()
            ended = running.ended()
            documented = (0, 130 if number == signal.SIGINT else 75)
            assert ended.status in documented and not ended.crashed, f"{where}: {short(ended)}"
            ground.require_sound(store, between)
            figures.add(interrupted=1)
        repeat(ground, host, stage, store, ground.argv(stage, store))
        ground.require_settled(store, after)
        ground.discard(store)
