"""What is attacked: commands, each with the store that it starts from and its result in the end."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Literal

from .shim import KINDS

State = Literal[
    "empty",
    "fetched",
    "quantized",
    "verified",
    "smoked",
    "published",
    "two",
    "third",
    "flipped",
    "damaged",
    "aged",
]
"""A store: see `ground.Ground.make`."""

Recipe = Literal["a", "b", "c"]
RECIPES: tuple[Recipe, ...] = ("a", "b", "c")


@dataclass(frozen=True)
class Stage:
    """A command under attack.

    Attributes:
        name: of its most important part.
        state: of the store before it.
        argv: the command; RECIPE stands for the recipe's path, the store is added.
        recipe: whose result is current afterwards.
        status: of an undisturbed command.
        again: what the same command may end with once it has been done, beside `status`.
        flipped: the recipe whose generation does not equal its manifest at the beginning.
    """

    name: str
    state: State
    argv: tuple[str, ...]
    recipe: Recipe
    status: int = 0
    again: tuple[int, ...] = ()
    flipped: Recipe | None = None


RECIPE = "RECIPE"

STAGES = (
    Stage("fetch", "empty", ("run", RECIPE, "--until", "fetch"), "a"),
    Stage("quantize", "fetched", ("run", RECIPE, "--until", "quantize"), "a"),
    Stage("verify", "quantized", ("run", RECIPE, "--until", "verify"), "a"),
    Stage("smoke", "verified", ("run", RECIPE, "--until", "smoke"), "a"),
    Stage("publish", "smoked", ("run", RECIPE), "a"),
    Stage("republish", "published", ("run", RECIPE), "b"),
    Stage("retire", "third", ("run", RECIPE), "c"),
    Stage("heal", "damaged", ("run", RECIPE), "a", flipped="a"),
    Stage("force", "published", ("run", RECIPE, "--force", "verify"), "a"),
    Stage("rollback", "two", ("rollback", RECIPE), "a", again=(2,)),
    Stage("prune", "aged", ("prune", "--yes"), "a"),
    Stage("scrub", "flipped", ("scrub",), "a", status=3, flipped="a"),
)
BY_NAME = {stage.name: stage for stage in STAGES}

CODES = {
    errno.ENOSPC: 5,
    errno.EDQUOT: 5,
    errno.EACCES: 5,
    errno.EROFS: 5,
    errno.EXDEV: 5,
    errno.EMFILE: 5,
    errno.EIO: 75,
    errno.ESTALE: 75,
    errno.ETIMEDOUT: 75,
    errno.EINTR: 75,
}
"""The exit code that docs/exit-codes.md promises for a fault of the storage, unless a command can go on."""

FAILING = tuple(kind for kind in KINDS if kind != "truncate")
"""The calls that fail with each errno."""

REPLAYED = {
    "rename": errno.ENOENT,
    "unlink": errno.ENOENT,
    "rmdir": errno.ENOENT,
    "mkdir": errno.EEXIST,
    "link": errno.EEXIST,
    "symlink": errno.EEXIST,
}
"""What an NFS client gets where an answer was lost and the server does not remember having done the call."""
