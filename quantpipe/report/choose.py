"""Which generation a report is about: of a recipe's file or name, a digest, a run."""

from __future__ import annotations

from pathlib import Path

from quantpipe.errors import RecipeError, UsageError
from quantpipe.recipe.load import load_recipe
from quantpipe.recipe.model import Recipe
from quantpipe.store.store import Store

_HINT = "`quantpipe status` lists the generations"


def find_recipe(store: Store, given: Path) -> tuple[str, Recipe | None]:
    """A recipe's name, and the recipe where its file is here.

    Args:
        given: a path, the name of a shipped recipe, or the name of a recipe in the store.

    Raises:
        RecipeError: it is none of these.
    """
    try:
        recipe = load_recipe(given)
    except RecipeError:
        if given.is_file() or str(given) not in store.recipes():
            raise
        return str(given), None
    return recipe.name, recipe


def find_generation(store: Store, name: str, digest: str | None = None, run: str | None = None) -> str:
    """The digest of a generation: the current one if nothing else is asked for.

    Args:
        digest: its first digits are enough.
        run: id of the run that published it.

    Raises:
        UsageError: there is none, or several begin so.
    """
    known = [generation.digest for generation in store.generations(name)]
    if run is not None:
        found = {move.digest for move in store.pointer(name).history.moves() if move.run == run}
        return _only([known_one for known_one in known if known_one in found], f"run {run} of {name}")
    if digest is not None:
        return _only([found for found in known if found.startswith(digest)], f"generation {digest} of {name}")
    current = store.current(name)
    if current is None:
        raise UsageError(f"nothing is published of {name}", where=str(store.model(name)), hint=_HINT)
    return current.name


def _only(found: list[str], what: str) -> str:
    if not found:
        raise UsageError(f"the store has no {what}", hint=_HINT)
    if len(found) > 1:
        details = tuple(found)
        raise UsageError(f"{what} is not unique", hint="give more digits", details=details)
    return found[0]
