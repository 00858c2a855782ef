"""What ships with quantpipe: recipes, calibration datasets, the tiny model and its probes.

They are in the package's assets: in a wheel as files, in a checkout as links to the folders `recipes` and
`calib_data`.
"""

from __future__ import annotations

import difflib
import os
from importlib.resources import files
from pathlib import Path
from typing import Literal

from quantpipe.errors import RecipeError

Role = Literal["source", "dataset", "probes"]
"""What a recipe uses a file or folder as."""

_PREFIX = "builtin:"


def recipes() -> dict[str, Path]:
    """The shipped recipes by name, sorted."""
    return {path.stem: path for path in sorted(_assets("recipes").glob("*.yaml"))}


def shipped_recipe(name: str) -> Path:
    """The file of a shipped recipe.

    Raises:
        RecipeError: there is none of this name; the hint lists close ones.
    """
    known = recipes()
    if name not in known:
        raise RecipeError(f"no shipped recipe is named {name}", hint=_close_to(name, list(known)))
    return known[name]


def find_recipe(recipe: str | Path) -> Path:
    """The file of a recipe that is given by its path, or by the name of a shipped one. An existing file wins.

    Raises:
        RecipeError: it can only be a name, and no shipped recipe has it.
    """
    path, name = Path(recipe), str(recipe)
    if is_file(path):
        return path
    known = recipes()
    if name in known:
        return known[name]
    if path.stem in known and not _exists(path):
        hint = f"refer to a shipped recipe by its name: {path.stem}"
        raise RecipeError("no such file", where=name, hint=hint)
    if _can_be_a_name(name) and not _exists(path):
        files_here = [f"{name}{ending}" for ending in (".yaml", ".yml") if is_file(Path(f"{name}{ending}"))]
        raise RecipeError(
            f"no such file, and no shipped recipe is named {name}",
            hint=f"did you mean {files_here[0]}?" if files_here else _close_to(name, list(known)),
        )
    return path


def builtin(text: str, role: Role) -> Path | None:
    """The path that a `builtin:` name refers to; None for any other text.

    Raises:
        RecipeError: nothing of this name and role ships with quantpipe.
    """
    if not text.startswith(_PREFIX):
        return None
    known = _builtins(role)
    path = known.get(text.removeprefix(_PREFIX))
    if path is None:
        names = ", ".join(_PREFIX + name for name in known)
        raise RecipeError(f"quantpipe ships no {role} named {text}", hint=f"available: {names}")
    return path


def is_file(path: Path) -> bool:
    """Whether it is a file; False for what no file can be named (too long, say), as os.path says it."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: Path) -> bool:
    """Whether it is a folder; False for what no folder can be named."""
    return os.path.isdir(path)  # noqa: PTH112


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110


def builtin_dataset(name: str) -> Path:
    """The file of a shipped dataset."""
    return _builtins("dataset")[name]


def _close_to(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(near)}?" if near else f"shipped recipes: {', '.join(known)}"


def _can_be_a_name(text: str) -> bool:
    """Whether a shipped recipe could be called so: no folder in it, and no ending of a YAML file."""
    return "/" not in text and not text.endswith((".yaml", ".yml"))


def _builtins(role: Role) -> dict[str, Path]:
    if role == "source":
        return {path.parent.name: path.parent for path in _assets().glob("*/config.json")}
    if role == "probes":
        return {path.name.partition(".")[0]: path for path in _assets().glob("*.probes.json")}
    return {path.stem: path for path in sorted(_assets("calib_data").glob("*.json"))}


def _assets(folder: str = ".") -> Path:
    """A folder of the package's data; where it is a link, what it leads to."""
    return Path(str(files("quantpipe.assets"))).joinpath(folder).resolve()
