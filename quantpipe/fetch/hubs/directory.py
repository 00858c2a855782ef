"""A source directory: which files it holds, where its links lead, and who may read them.

What is fetched from it is published, and readable by everybody (0444). A link is followed only within the
directory and, in the cache of a hub client, to that cache's blobs: a directory that others may write in
could otherwise have any file of whoever runs quantpipe published.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from quantpipe import durable
from quantpipe.errors import RecipeError
from quantpipe.fetch.listing import MAX_FILES


def walk(root: Path) -> Iterator[str]:
    """The files that are not hidden, as relative POSIX paths. Links to folders are not followed.

    Raises:
        RecipeError: there is no such directory, something in it is no file, or it holds too many.
    """
    if not root.is_dir():
        raise RecipeError(
            "the source directory does not exist" if not root.exists() else "the source is not a directory",
            where=f"source.repo: {root}",
            hint="correct source.repo in the recipe, or mount the storage that holds it",
        )
    count = 0
    for directory, folders, files in durable.walk(root):
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        for name in sorted(files):
            path = Path(directory, name)
            if name.startswith("."):
                continue
            if not path.is_file():  # a dangling link, as in a pruned cache of a hub client
                raise RecipeError(
                    "not a regular file, or a dangling link",
                    where=str(path),
                    hint="complete the directory, or name another one in source.repo",
                )
            count += 1
            if count > MAX_FILES:
                raise RecipeError(
                    f"the source directory holds more than {MAX_FILES:,} files",
                    where=f"source.repo: {root}",
                    hint="name the model's own directory in source.repo",
                )
            yield PurePosixPath(path.relative_to(root)).as_posix()


def require_links_inside(root: Path, paths: Iterable[str]) -> None:
    """Refuse links that lead out of a source, or to a hidden file in it.

    Args:
        paths: relative to the source.

    Raises:
        RecipeError: one does; it names the link.
    """
    inside = root.resolve()
    blobs = inside.parent.parent / "blobs"
    for path in paths:
        target = (root / path).resolve()
        if target == inside / path:
            continue
        in_cache = inside.parent.name == "snapshots" and target.is_relative_to(blobs)
        hidden = any(part.startswith(".") for part in _below(inside, target))
        if not in_cache and (hidden or not target.is_relative_to(inside)):
            raise RecipeError(
                f"a link of the source leads out of it, to {target}",
                where=str(root / path),
                hint="replace the link by a copy of the file, or name the directory that holds the files "
                "in source.repo: what is fetched becomes readable by everybody",
            )


def private(root: Path, paths: Iterable[str]) -> list[str]:
    """The files that not everybody may read: for their own mode, or for that of a folder above them."""
    closed: dict[Path, bool] = {}
    return [path for path in paths if _is_private((root / path).resolve(), closed)]


def _is_private(file: Path, closed: dict[Path, bool]) -> bool:
    if not file.stat().st_mode & stat.S_IROTH:
        return True
    folder = file.parent
    if folder not in closed:
        above = [folder, *folder.parents]
        closed[folder] = not all(place.stat().st_mode & stat.S_IXOTH for place in above)
    return closed[folder]


def _below(folder: Path, path: Path) -> tuple[str, ...]:
    return path.relative_to(folder).parts if path.is_relative_to(folder) else ()
