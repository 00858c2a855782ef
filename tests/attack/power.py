"""Power cuts: what is on the device at the n-th durable call is mounted, and the command is repeated.

    unshare --mount --pid --fork --kill-child python power.py < JSON

The store lies on an ext4 of its own in a loop device, which flushes only what it is told to (commit=600). At
the call the device's bytes are copied, as a power cut would leave them. Run as root in namespaces of its own:
mounts and loop devices end with this process, however it ends. Prints {"cuts": N, "problems": [...]}.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import shim
from .common import allowed, repeat, sample
from .ground import Ground
from .hosts import Host
from .stages import BY_NAME, Stage

STAGES = ("publish", "republish", "retire", "heal", "rollback", "fetch", "quantize", "verify")
_MEBIBYTES = 192


def run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


@contextlib.contextmanager
def mounted(image: Path, place: Path) -> Iterator[Path]:
    """The image's filesystem at `place`; lazily unmounted, since what was killed may still end."""
    place.mkdir(exist_ok=True)
    run("mount", "-o", "loop,commit=600", image, place)
    try:
        yield place
    finally:
        run("umount", "-l", place)


def copied(image: Path, name: str) -> Path:
    target = image.with_name(name)
    run("cp", "--sparse=always", image, target)
    return target


def filled(ground: Ground, host: Host, stage: Stage) -> Path:
    """An image whose `store` is in the state that a stage begins with."""
    image = ground.own / f"base-{stage.name}.img"
    with image.open("wb") as file:
        file.truncate(_MEBIBYTES << 20)
    run("mkfs.ext4", "-q", "-F", "-m", "0", image)
    with mounted(image, ground.own / "disk") as disk:
        run("cp", "-a", ground.make(host, stage.state), disk / "store")
        run("sync", "-f", disk)
    return image


def cut(ground: Ground, host: Host, stage: Stage, base: Path, number: int) -> bool:
    """Cut the power at call `number`; False where there were fewer."""
    image = copied(base, "now.img")
    between, after, flipped = allowed(ground, host, stage)
    with mounted(image, ground.own / "disk") as disk:
        store = disk / "store"
        page = ground.page(store, target=number, action=shim.PAUSE)
        running = host.start(*ground.argv(stage, store), control=page)
        if not running.waits():
            return False
        left = copied(image, "left.img")
        page.kill()
        running.ended()
    with mounted(left, ground.own / "disk") as disk:
        store = disk / "store"
        ground.require_sound(store, between, flipped=flipped)
        repeat(ground, host, stage, store, ground.argv(stage, store))
        ground.require_settled(store, after)
    return True


def cuts(ground: Ground, host: Host, names: Sequence[str], points: int, seed: int) -> dict[str, Any]:
    """At `points` calls of each stage; 0 for all."""
    done, problems = 0, []
    for name in names:
        stage, dice = BY_NAME[name], random.Random(f"{seed} {name}")
        calls = ground.durable_calls(host, stage)
        base = filled(ground, host, stage)
        for number in sample(calls, points, dice):
            try:
                done += cut(ground, host, stage, base, number)
            except (AssertionError, TimeoutError) as error:
                problems.append(f"{name} cut at call {number} {calls[number - 1]}; seed {seed}: {error}")
        base.unlink()
    return {"cuts": done, "problems": problems}


def main() -> None:
    asked = json.load(sys.stdin)
    paths = {name: Path(asked[name]) for name in ("folder", "own", "library")}
    ground = Ground(**paths, recipes={letter: Path(path) for letter, path in asked["recipes"].items()})
    try:
        run("mount", "-t", "tmpfs", "tmpfs", ground.own)  # stores of this process alone; gone when it ends
        (ground.own / "template").symlink_to(ground.folder / "template")
        with Host(ground.own, ground.library) as host:
            result = cuts(ground, host, asked["stages"], asked["points"], asked["seed"])
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        said = getattr(error, "stderr", b"") or b""
        result = {"skipped": f"{error} {said.decode(errors='replace')}"}
    os.write(1, json.dumps(result).encode())


if __name__ == "__main__":
    main()
