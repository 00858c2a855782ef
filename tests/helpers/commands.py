"""What tests share: the command itself, a recipe to change, a look at the leftovers of a run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
QUANTPIPE = Path(sys.executable).with_name("quantpipe")
TINY_RECIPE = ROOT / "recipes" / "tiny-qwen3-moe-w8a8-rot.yaml"


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        """Its data."""
        return json.loads(self.stdout)


def environment(**changes: str) -> dict[str, str]:
    """The caller's environment without settings of quantpipe other than interpreters."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("QUANTPIPE_") or name.endswith("_PYTHON")
    }
    return {**kept, **changes}


def quantpipe(*arguments: str | Path, timeout: float = 600, **changes: str) -> Finished:
    """Run the installed command to its end."""
    done = subprocess.run(
        [str(QUANTPIPE), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(**changes),
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def write_recipe(folder: Path, **sections: Any) -> Path:
    """The tiny recipe, cut down to two prompts of each set and three probes, with changed sections.

    A section is merged into the recipe's own; a plain value replaces it.
    """
    value = yaml.safe_load(TINY_RECIPE.read_text("utf-8"))
    value["source"]["repo"] = str(ROOT / "quantpipe/assets/tiny-qwen3-moe")
    folder.mkdir(parents=True, exist_ok=True)
    for role in ("anti_outlier", "calibration"):
        prompts = json.loads((ROOT / f"calib_data/{role}.json").read_text("utf-8"))
        (folder / f"{role}.json").write_text(json.dumps(prompts[:2]), "utf-8")
        value["quantize"][role]["dataset"] = f"{role}.json"
    held_out = json.loads((ROOT / "calib_data/held_out.json").read_text("utf-8"))
    (folder / "held_out.json").write_text(json.dumps(held_out[:2]), "utf-8")
    value["quality"] = {"dataset": "held_out.json"}
    probes = json.loads((ROOT / "quantpipe/assets/tiny-qwen3-moe.probes.json").read_text("utf-8"))
    value["smoke"].update(probes=[probe for probe in probes if not probe["chat"]][:3], probes_file=None)
    for name, section in sections.items():
        if isinstance(section, dict):
            value[name].update(section)
        else:
            value[name] = section
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), "utf-8")
    return path


def made_once(folder: Path, name: str, *commands: list[str | Path], start: Path | None = None) -> Path:
    """A store that the given commands have filled, made by the first worker that asks for it.

    Args:
        start: a store to begin with a copy of.
    """
    store = folder / name
    with FileLock(folder / f"{name}.lock"):
        if not (folder / f"{name}.done").exists():
            shutil.rmtree(store, ignore_errors=True)
            if start is not None:
                copy_store(start, store)
            for command in commands:
                done = quantpipe(*command, "--store", store)
                assert done.status == 0, done.stderr
            (folder / f"{name}.done").touch()
    return store


def copy_store(store: Path, target: Path) -> Path:
    """A copy with times, modes and links. Inodes differ: fetch looks at its files again, and keeps them."""
    subprocess.run(["cp", "-a", "--reflink=auto", str(store), str(target)], check=True)
    return target
