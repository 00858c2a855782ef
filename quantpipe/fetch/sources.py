"""Which files of a repository are needed to quantize and to serve it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from quantpipe.checkpoint.names import SHARD_GLOB, SHARD_SUFFIX
from quantpipe.errors import RecipeError
from quantpipe.fetch.hub import RemoteFile
from quantpipe.fetch.listing import require_inside, require_storable
from quantpipe.recipe.model import Recipe
from quantpipe.stage import digest_of

Select = Callable[[Iterable[RemoteFile]], tuple[RemoteFile, ...]]

_NEEDED = (
    SHARD_GLOB,
    "*.json",
    "*.jinja",
    "*.model",
    "*.tiktoken",
    "*.txt",
    "LICENSE*",
    "NOTICE*",
    "README.md",
    "*.py",
)
_OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.gguf", "*.onnx", "*.ot")
_OTHER_FOLDERS = frozenset({"original", "onnx", "openvino", "coreml", "gguf", "metal"})


def select(
    files: Iterable[RemoteFile],
    *,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    trust_remote_code: bool = False,
) -> tuple[RemoteFile, ...]:
    """The files that are needed, sorted by path.

    Weights in other formats than safetensors are never taken, nor hidden files; Python files only when
    the recipe trusts them. `include` replaces the default patterns, `exclude` overrides both.

    Args:
        include: shell patterns, matched against the path and against the name.
        exclude: the same.

    Raises:
        RecipeError: no safetensors file is left.
        VerificationError, RecipeError: the listing has paths that the store cannot hold; see `listing`.
    """
    wanted = tuple(include)
    unwanted = tuple(exclude)
    every = require_inside(files)
    found = [
        file
        for file in every
        if _allowed(file.path, trust_remote_code=trust_remote_code)
        and (_matches(file.path, wanted) if wanted else _needed(file.path))
        and not _matches(file.path, unwanted)
    ]
    if not wanted:
        found = _without_second_copy(found)
    if not any(file.path.endswith(SHARD_SUFFIX) for file in found):
        raise RecipeError(
            "the source has no safetensors weights",
            where="source",
            hint=_hint(every, wanted or unwanted),
        )
    require_storable(found)
    return tuple(sorted(found))


def selector(recipe: Recipe) -> Select:
    """`select` with the patterns and the trust of a recipe."""

    def bound(files: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
        return select(
            files,
            include=recipe.source.include,
            exclude=recipe.source.exclude,
            trust_remote_code=trusts_remote_code(recipe),
        )

    return bound


def trusts_remote_code(recipe: Recipe) -> bool:
    """Whether the model's own Python code is wanted, for quantizing or for serving."""
    return recipe.quantize.trust_remote_code or recipe.smoke.serve.trust_remote_code


def _matches(path: str, patterns: Iterable[str]) -> bool:
    name = PurePosixPath(path).name
    return any(fnmatchcase(path, pattern) or fnmatchcase(name, pattern) for pattern in patterns)


def _allowed(path: str, *, trust_remote_code: bool) -> bool:
    parts = PurePosixPath(path).parts
    if any(part.startswith(".") for part in parts) or _matches(path, _OTHER_FORMATS):
        return False
    return trust_remote_code or not path.endswith(".py")


def _needed(path: str) -> bool:
    return PurePosixPath(path).parts[0] not in _OTHER_FOLDERS and _matches(path, _NEEDED)


def _without_second_copy(files: list[RemoteFile]) -> list[RemoteFile]:
    """Some repositories hold the weights twice: `model-*` for transformers, `consolidated*` for others."""
    if not any(fnmatchcase(file.path, f"model{SHARD_GLOB}") for file in files):
        return files
    return [file for file in files if not fnmatchcase(file.path, f"consolidated{SHARD_GLOB}*")]


def _hint(files: list[RemoteFile], patterned: tuple[str, ...]) -> str:
    if patterned and any(file.path.endswith(SHARD_SUFFIX) for file in files):
        return "the recipe's include and exclude patterns leave out *.safetensors: correct them"
    if any(_matches(file.path, _OTHER_FORMATS) for file in files):
        return "the repository has weights in other formats only: choose one with BF16 safetensors"
    return "check source.repo and source.revision: this is not a model repository"


def variant(recipe: Recipe) -> str:
    """The suffix of a snapshot's name after the commit: empty, or a mark of the recipe's own selection.

    Recipes that select other files of the same commit get snapshots of their own, which share equal files.
    """
    chosen = [sorted(recipe.source.include), sorted(recipe.source.exclude), trusts_remote_code(recipe)]
    return "" if chosen == [[], [], False] else "-" + digest_of(chosen)[:8]
