"""A shipped recipe as a file to start from."""

from __future__ import annotations

import re
from pathlib import Path

from quantpipe import durable
from quantpipe.errors import UsageError
from quantpipe.recipe.model import NAME_PATTERN
from quantpipe.recipe.shipped import shipped_recipe

SCHEMA_FILE = "recipe.schema.json"
_HEADER = f"""\
# yaml-language-server: $schema={SCHEMA_FILE}
# Editors complete and check this file after: quantpipe recipe schema > {SCHEMA_FILE}
# Relative paths begin at this file's folder; `builtin:` names what ships with quantpipe, on every host.
# What to change first: source, the two datasets (prompts that resemble your traffic), smoke.serve.
"""


def copy_recipe(name: str, target: Path, *, force: bool = False) -> Path:
    """Write a shipped recipe to `target`, named after it, so that it has a folder of its own in the store.

    Args:
        target: the new file, or a folder to put it in.
        force: replace a file that is there.

    Returns:
        The path of the new file.

    Raises:
        RecipeError: no shipped recipe has this name.
        UsageError: the file already exists, or its folder does not.
    """
    source = shipped_recipe(name)
    path = target / source.name if target.is_dir() else target
    if path.exists() and not force:
        raise UsageError(
            "the file already exists", where=str(path), hint="choose another name, or add --force"
        )
    if not path.parent.is_dir():
        raise UsageError("no such folder", where=str(path.parent), hint="create it, or choose another one")
    try:
        durable.write_bytes(path, _renamed(source.read_text("utf-8"), name, path).encode("utf-8"))
    except OSError as error:
        raise UsageError(
            f"cannot be written: {error.strerror}", where=str(path), hint="choose another file"
        ) from error
    return path


def _renamed(text: str, name: str, path: Path) -> str:
    """The text with the new file in its first line and the new name in its key."""
    new = path.stem if re.fullmatch(NAME_PATTERN, path.stem) else name
    text = text.replace(f"# quantpipe run {name}", f"# quantpipe run {path.name}", 1)
    text = text.replace(f"\nname: {name}\n", f"\nname: {new}  # of the checkpoint's folder in the store\n", 1)
    return _HEADER + text
