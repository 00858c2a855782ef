"""Stores to attack, made once per session, and the look at one after an attack."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock
from helpers.commands import ROOT, copy_store, write_recipe
from helpers.processes import alive
from helpers.rot import flip

from . import shim
from .hosts import Ended, Host
from .stages import RECIPE, RECIPES, Recipe, Stage, State

NAME = "tiny-qwen3-moe-w8a8-rot"
_DAY = 24 * 3600


def memory_folder() -> Path:
    """A folder for stores in memory, where there is one: an attack waits for no disk.

    Named by its process: what killed sessions have left is removed.
    """
    base = Path("/dev/shm")
    if not base.is_dir() or shutil.disk_usage(base).free < (2 << 30):
        base = Path(os.environ.get("TMPDIR", "/tmp"))
    for old in base.glob("quantpipe-attack-*"):
        if not alive(int(old.name.rpartition("-")[2])):
            shutil.rmtree(old, ignore_errors=True)
    folder = base / f"quantpipe-attack-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    return folder


@dataclass
class Ground:
    """What all attacks of a session share.

    Attributes:
        folder: of recipes, states, pages and output; shared by the workers of xdist.
        own: for the stores of this worker.
        library: of shim.py.
        recipes: by letter; they have one name, and different prompts.
    """

    folder: Path
    own: Path
    library: Path
    recipes: dict[str, Path] = field(default_factory=dict)
    _numbers: Any = field(default_factory=itertools.count)

    @classmethod
    def prepare(cls, shared: Path, own: Path, template: Path) -> Ground | None:
        """Compile, write the recipes, copy the checkpoint that fake_quantizer.py copies.

        Args:
            template: a `checkpoint` folder of the real worker.

        Returns:
            None where nothing can be compiled.
        """
        folder = shared / "attack"
        with FileLock(shared / "attack.lock"):
            if not (folder / "template").is_dir():
                folder.mkdir(exist_ok=True)
                if shim.compiled(folder) is None:
                    return None
                shutil.copytree(template, folder / "template-new")
                (folder / "template-new").rename(folder / "template")
            recipes: dict[str, Path] = {letter: _recipe(folder, letter) for letter in RECIPES}
        # Pages lie next to the template: in one folder for the fake worker's sake.
        if not (own / "template").exists():
            (own / "template").symlink_to(folder / "template")
        return cls(folder, own, folder / "shim.so", recipes)

    # -- stores ---------------------------------------------------------------------------------

    def make(self, host: Host, state: State) -> Path:
        """The store in that state, to be copied; made by the first worker that asks for it."""
        store = self.folder / state
        with FileLock(self.folder / f"{state}.lock"):
            if not (self.folder / f"{state}.done").exists():
                shutil.rmtree(store, ignore_errors=True)
                self._make(host, state, store)
                (self.folder / f"{state}.done").touch()
        return store

    def store(self, host: Host, state: State) -> Path:
        """A copy of the store in that state."""
        target = self.own / f"store-{next(self._numbers)}"
        return copy_store(self.make(host, state), target)

    def argv(self, stage: Stage, store: Path) -> list[str]:
        """A stage's command on a store."""
        recipe = str(self.recipes[stage.recipe])
        return [recipe if part == RECIPE else part for part in stage.argv] + ["--store", str(store)]

    def page(self, store: Path, **options: Any) -> shim.Control:
        """A page for commands on a store."""
        return shim.Control(self.own / f"page-{next(self._numbers)}", store.resolve(), **options)

    def calls(self, host: Host, stage: Stage) -> list[tuple[str, str]]:
        """Kind and path of each call of an undisturbed command; looked at once per session."""
        path = self.folder / f"calls-{stage.name}.json"
        with FileLock(self.folder / f"calls-{stage.name}.lock"):
            if not path.exists():
                store = self.store(host, stage.state)
                page = self.page(store, kinds=shim.KINDS, logged=True)
                ended = host.run(*self.argv(stage, store), control=page)
                assert ended.status == stage.status, short(ended)
                calls = page.calls()
                assert len(calls) == page.counted > 0
                path.write_text(json.dumps(calls))
                self.discard(store)
            return [(kind, name) for kind, name in json.loads(path.read_text())]

    def durable_calls(self, host: Host, stage: Stage) -> list[tuple[str, str]]:
        """Those of `calls` that a page counts unless it is given other kinds."""
        return [call for call in self.calls(host, stage) if call[0] in shim.DURABLE]

    def digest(self, host: Host, recipe: Recipe) -> str:
        """Of the recipe's checkpoint."""
        states: dict[Recipe, State] = {"a": "published", "b": "two", "c": "third"}
        made = self.make(host, states[recipe])
        if recipe != "c":
            return current(made) or ""
        known = {self.digest(host, "a"), self.digest(host, "b")}
        return next(path.name for path in generations(made) if path.name not in known)

    def digests(self, host: Host) -> list[str]:
        """Of the checkpoints of all recipes."""
        return [self.digest(host, recipe) for recipe in RECIPES]

    def discard(self, store: Path) -> None:
        """Remove a store, and pages and output of the commands on it."""
        shutil.rmtree(store, ignore_errors=True)
        for path in [*self.own.glob("page-*"), *self.own.glob("out-*")]:
            with contextlib.suppress(OSError):
                path.unlink()

    def _make(self, host: Host, state: State, store: Path) -> None:
        if state == "empty":
            store.mkdir()
            return
        before: dict[State, State] = {
            "fetched": "empty",
            "quantized": "fetched",
            "verified": "quantized",
            "smoked": "verified",
            "published": "smoked",
            "two": "published",
            "third": "two",
            "flipped": "published",
            "damaged": "flipped",
            "aged": "damaged",
        }
        copy_store(self.make(host, before[state]), store)
        until = {"fetched": "fetch", "quantized": "quantize", "verified": "verify", "smoked": "smoke"}.get(
            state
        )
        if until is not None:
            self._run(host, store, "a", "--until", until)
        elif state == "flipped":
            flip(store / "models" / NAME / "current" / "model-00002-of-00005.safetensors")
        elif state == "damaged":
            assert host.run("scrub", "--store", store).status == 3
        elif state == "aged":
            self._age(host, store)
        elif state == "third":
            self._run(host, store, "c", "--until", "smoke")
        else:
            self._run(host, store, "a" if state == "published" else "b")

    def _run(self, host: Host, store: Path, recipe: str, *more: str) -> None:
        # A page is needed to find the template, even if nothing is done.
        page = self.page(store)
        ended = host.run("run", self.recipes[recipe], "--store", store, *more, control=page)
        assert ended.status == 0, ended.text

    def _age(self, host: Host, store: Path) -> None:
        """Something to prune: a damaged generation, a sealed one that was given up, a snapshot, runs."""
        self._run(host, store, "a")  # heals: the damaged generation stays aside
        self._run(host, store, "b", "--until", "verify")
        unpublished = next(path for path in generations(store) if path.name != current(store))
        _set_age(unpublished / "quantpipe.json", 8 * _DAY)
        snapshot = next(store.glob("sources/local/*/*/config.json")).parent
        unneeded = snapshot.with_name("f" * 60)
        shutil.copytree(snapshot, unneeded, symlinks=True)
        for path in [*unneeded.rglob("*"), unneeded]:
            _set_age(path, 9 * _DAY)
        runs = sorted((store / "runs" / NAME).iterdir())
        for number in range(11):
            shutil.copytree(runs[0], runs[0].with_name(f"2020{number:02d}"), symlinks=True)

    # -- the look afterwards ----------------------------------------------------------------------

    def require_sound(
        self, store: Path, allowed: Sequence[str | None], *, flipped: str | None = None
    ) -> None:
        """The invariants of a store, at any time.

        Args:
            allowed: digests that may be current; None for no pointer.
            flipped: the digest of a generation that does not equal its manifest, or did not.
        """
        named = current(store)
        assert named in allowed, f"current is {named}, not one of {allowed}"
        for generation in generations(store):
            problem = difference(generation)
            assert problem is None or generation.name == flipped, f"{generation.name[:12]}: {problem}"
        if named is not None:
            assert (store / "models" / NAME / named).is_dir(), "current dangles"

    def require_settled(self, store: Path, digest: str | None) -> None:
        """What a command that was repeated until it succeeded leaves, beside the result."""
        self.require_sound(store, [digest])
        for lease in (store / "leases").glob("[!.]*.json"):
            # A command that has nothing to do takes no lease, and leaves that of a killed one.
            owner = json.loads(lease.read_text())["owner"]
            assert not alive(owner["pid"]), f"a lease of a living process is left over: {owner}"


def _recipe(folder: Path, letter: Recipe) -> Path:
    path = folder / f"recipe-{letter}" / "recipe.yaml"
    if not path.exists():
        write_recipe(path.parent, smoke={"min_matches": 0.0})
        prompts = json.loads((ROOT / "calib_data/calibration.json").read_text("utf-8"))
        first = RECIPES.index(letter)
        (path.parent / "calibration.json").write_text(json.dumps(prompts[first : first + 2]), "utf-8")
    return path


def _set_age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then), follow_symlinks=False)


def current(store: Path) -> str | None:
    """The digest that the pointer names."""
    try:
        return str((store / "models" / NAME / "current").readlink())
    except FileNotFoundError:
        return None


def generations(store: Path) -> list[Path]:
    """All that bear a generation's name."""
    folder = store / "models" / NAME
    return sorted(path for path in folder.glob("?" * 64)) if folder.is_dir() else []


def difference(generation: Path) -> str | None:
    """How a generation differs from its manifest, name or modes; by hashes of the test's own."""
    try:
        manifest = json.loads((generation / "quantpipe.json").read_text())["manifest"]
    except (OSError, ValueError, KeyError) as error:
        return f"quantpipe.json: {error!r}"
    expected = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
    found = {str(path.relative_to(generation)): path for path in generation.rglob("*") if path.is_file()}
    found.pop("quantpipe.json")
    found.pop("README.md", None)  # the model card, of generations that this version sealed
    if expected.keys() != found.keys():
        return f"files differ: {sorted(expected.keys() ^ found.keys())}"
    for name, path in found.items():
        if path.stat().st_mode & 0o777 != 0o444:
            return f"{name} has mode {path.stat().st_mode:o}"
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected[name]:
            return f"{name} has another hash"
    return None


def short(ended: Ended) -> str:
    """An end for a message."""
    return f"exit {ended.status}\n{ended.text[-1500:]}"
