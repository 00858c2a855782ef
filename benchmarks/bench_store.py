"""What commands cost in a big store: seconds, and calls that name a file, each a round trip on NFS.

    .venv/bin/python benchmarks/bench_store.py [--recipes 200] [--generations 5] [--folder DIR] [--rounds 3]

200 recipes with 5 generations of 60 shards, 118-file sources and 10 runs each: 130,000 files, sparse ones of
weights, written by tests/helpers/big_store.py. For each command: the best of the rounds, its goal, the calls
that name something in the store (by strace, where it is installed), and their ratio to the floor: a listing
of each folder that has to be looked at and one stat of each of its entries, timed by os.scandir.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from helpers.big_store import Scale, build  # noqa: E402

QUANTPIPE = Path(sys.executable).with_name("quantpipe")


@dataclass(frozen=True)
class Case:
    """A command, its goal in seconds, and the folders of the store that it has to look at, by patterns."""

    name: str
    arguments: tuple[str, ...]
    goal: float
    folders: tuple[str, ...]


def cases(recipe: Path) -> list[Case]:
    one, name = str(recipe), "model-000"
    records = ("damaged", "scrub", "receipts", "history")
    every = tuple(f"models/*/{folder}" for folder in ("", *records))
    return [
        Case("status", ("status",), 1, ("models", *every[:3], "runs/*", "runs/*/*")),
        Case("status RECIPE", ("status", one), 1, (f"models/{name}", f"models/{name}/scrub", f"runs/{name}")),
        Case("run, nothing to do", ("run", one), 1, (f"models/{name}/*", "sources/local/*/**")),
        Case("rollback, by names", ("rollback", one, "--no-hashes"), 1, (f"models/{name}/*",)),
        Case("prune (listing)", ("prune",), 5, (*every, "models/*/*", "runs/*/*", "leases", "sources/*/*/*")),
        Case("scrub (planning)", ("scrub", "--budget", "0s"), 5, ("models/**", "sources/**")),
    ]


def floor(store: Path, folders: tuple[str, ...]) -> tuple[int, float]:
    """Listings and stats of what has to be looked at, and their seconds by os.scandir in this process."""
    places = {path for pattern in folders for path in store.glob(pattern) if path.is_dir()}
    began, calls = time.perf_counter(), 0
    for place in places:
        with os.scandir(place) as listed:
            for entry in listed:
                entry.stat(follow_symlinks=False)
                calls += 1
        calls += 1
    return calls, time.perf_counter() - began


def forget_rollback(store: Path) -> None:
    """So that another rollback has a generation to go to."""
    (store / "models" / "model-000" / "held.json").unlink(missing_ok=True)


def seconds(command: list[str], store: Path) -> tuple[float, float]:
    """Wall and CPU seconds of a command."""
    forget_rollback(store)
    before, began = os.times(), time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - began, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, cpu


def calls_of(command: list[str], store: Path) -> int | None:
    """The calls of a command that name something in the store; None without strace."""
    if shutil.which("strace") is None:
        return None
    forget_rollback(store)
    with tempfile.NamedTemporaryFile("r") as log:
        trace = ["strace", "-f", "-qq", "-y", "-e", "trace=%file,getdents64", "-o", log.name]
        subprocess.run([*trace, *command], stdout=subprocess.DEVNULL, check=True)
        return sum(str(store) in line for line in log)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", type=int, default=200)
    parser.add_argument("--generations", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, help="where the store is made, or stands already; then it stays"
    )
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = chosen.folder or Path(temporary)
        began = time.perf_counter()
        if not (folder / "store").is_dir():
            build(folder, Scale(recipes=chosen.recipes, generations=chosen.generations))
            print(f"built in {time.perf_counter() - began:.0f} s")
        measure(folder, chosen.rounds)


def measure(folder: Path, rounds: int) -> None:
    store = folder / "store"
    columns = f"{'wall':>7} {'cpu':>7} {'goal':>6} {'calls':>9} {'floor':>9} {'ratio':>6} {'floor':>8}"
    print(f"{'command':<20} {columns}")
    for case in cases(folder / "recipe" / "recipe.yaml"):
        command = [str(QUANTPIPE), *case.arguments, "--store", str(store), "-q"]
        wall, cpu = min(seconds(command, store) for _ in range(rounds))
        calls = calls_of(command, store) or 0
        least, floor_seconds = floor(store, case.folders)
        goal = f"{case.goal:g} s" if wall <= case.goal else f"{case.goal:g} s!"
        print(
            f"{case.name:<20} {wall:>5.2f} s {cpu:>5.2f} s {goal:>6} {calls:>9,} {least:>9,} "
            f"{calls / least:>6.1f} {floor_seconds:>6.2f} s"
        )


if __name__ == "__main__":
    main()
