"""What a store's filesystem can do, tried before hours of work depend on it.

A publish needs, and cannot do without: a rename over a file, over a link, and of a directory from a run to
the generations; symbolic links; fsync. Two more operations make it better, and have a fallback:

- hard links: a lease is otherwise created exclusively, and equal files of two snapshots are fetched twice;
- the exchange of two names: a damaged generation is otherwise replaced by two renames.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from quantpipe import durable
from quantpipe.errors import PreflightError
from quantpipe.store import folders
from quantpipe.store.faults import storage_error
from quantpipe.store.space import existing


class Abilities(NamedTuple):
    """What has a fallback: whether the filesystem has hard links, and exchanges two names in one step."""

    hard_links: bool
    exchange: bool


def check_semantics(folder: Path) -> None:
    """Try rename over a file, of a directory and over a link, and fsync, in one folder.

    Args:
        folder: where to try; created if it is missing.

    Raises:
        StorageFullError, RetryableError: the trial met a fault of the storage.
        PreflightError: the store is not writable, or lacks one of these operations.
    """
    with _explained(folder), _trial(folder) as trial:
        _try_folder(trial, folder)


def check_publish(run: Path, model: Path) -> Abilities:
    """Try what leads from a run to a published generation, in the two folders themselves.

    Each of the two may be a mount, or in a quota project or a dataset, of its own.

    Args:
        run: a folder that exists: of the run, whose staging will be renamed.
        model: a folder that exists: where the generation and the pointer will be.

    Raises:
        StorageFullError, RetryableError: the trial met a fault of the storage.
        PreflightError: a folder is not writable, or lacks an operation.
    """
    with _explained(model), _trial(model) as there:
        _try_folder(there, model)
        with _explained(run), _trial(run) as here:
            checkpoint = here / "checkpoint"
            checkpoint.mkdir()
            durable.write_bytes(checkpoint / "file", b"new")
            with _explained(f"{run} -> {model}"):
                checkpoint.rename(there / "checkpoint")
            durable.fsync_directory(there)
        return Abilities(_links(there), durable.try_exchange(there / "checkpoint", there / "renamed"))


def check_store(root: Path) -> Abilities:
    """The trials of a whole store, which leave no folder that was not there. Raises as `check_publish`."""
    with _explained(root):
        folders.require_folder(root)
    missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        check_semantics(root)
        return check_publish(existing(root / "runs"), existing(root / "models"))
    finally:
        # Never a tree: a run that began meanwhile may have put hours of work into it.
        with contextlib.suppress(OSError):
            for folder in missing:
                folder.rmdir()


@contextlib.contextmanager
def _trial(folder: Path) -> Iterator[Path]:
    trial = folder / f"{durable.TEMPORARY_PREFIX}trial-{secrets.token_hex(8)}"
    try:
        trial.mkdir(parents=True)
        yield trial
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def _try_folder(trial: Path, folder: Path) -> None:
    """Try all operations in one folder."""
    file, link, directory = trial / "file", trial / "link", trial / "directory"
    durable.write_bytes(file, b"old")
    durable.write_bytes(file, b"new")
    if file.read_bytes() != b"new":
        raise _lacking("a rename in the store did not replace the file", folder)
    directory.mkdir()
    directory.rename(trial / "renamed")
    for target in ("one", "two"):
        (trial / "new-link").symlink_to(target)
        (trial / "new-link").replace(link)
    if str(link.readlink()) != "two":
        raise _lacking("a rename in the store did not replace the link", folder)
    durable.fsync_directory(trial)


def _links(trial: Path) -> bool:
    try:
        os.link(trial / "file", trial / "linked")
    except OSError:
        return False
    return True


def _lacking(what: str, folder: Path) -> PreflightError:
    hint = "the filesystem does not support atomic publishing: use another one"
    return PreflightError(what, where=str(folder), hint=hint)


@contextlib.contextmanager
def _explained(where: Path | str) -> Iterator[None]:
    """Faults without the names of the trial, which mean nothing to users."""
    try:
        yield
    except OSError as error:
        words = error.strerror or str(error)
        found = None if error.errno is None else storage_error(OSError(error.errno, words), where)
        raise found or PreflightError(
            f"the filesystem lacks an operation that quantpipe needs: {words}",
            where=str(where),
            hint="rename, symbolic links and fsync are needed: check the mount options, or use another store",
        ) from error
