"""Looks at a sealed generation: by names and sizes, which costs a stat for each file, or by every byte."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from quantpipe.checkpoint.strict_json import load_object
from quantpipe.digest import OnBytes, hash_file
from quantpipe.errors import RetryableError, VerificationError
from quantpipe.store.damaged import mark, marked
from quantpipe.store.manifest import PROVENANCE, FileEntry, Manifest, Mismatch, glance
from quantpipe.store.verified import Verified

FILE_MODE = 0o444
FOLDER_MODE = 0o755


def manifest_of(checkpoint: Path) -> Manifest:
    """The manifest in the provenance of a sealed checkpoint.

    Raises:
        FileNotFoundError: it has none, or is gone.
        VerificationError: it is not a manifest.
    """
    place = checkpoint / PROVENANCE
    try:
        value = load_object(place)["manifest"]
    except (ValueError, KeyError, TypeError) as error:
        raise VerificationError(f"not a provenance: {error!r}", where=str(place)) from error
    return Manifest.from_json(value, where=str(place))


def glance_at_sealed(checkpoint: Path) -> list[Mismatch]:
    """How a generation differs from its manifest: by its mark, or else by names and sizes."""
    if found := marked(checkpoint):
        return found
    try:
        manifest = manifest_of(checkpoint)
        return glance(checkpoint, manifest, exclude=manifest.beside())
    except FileNotFoundError as error:
        return [Mismatch(Path(error.filename).name, "is missing")]
    except VerificationError as error:
        return [Mismatch(PROVENANCE, f"cannot be read: {error}")]


def glance_at_name(checkpoint: Path, manifest: Manifest) -> list[Mismatch]:
    """Whether a generation's name is its manifest's digest: else the manifest was changed with the files."""
    if (digest := manifest.digest()) == checkpoint.name:
        return []
    return [Mismatch(PROVENANCE, f"holds the manifest of {digest} instead of {checkpoint.name}")]


def compare_modes(checkpoint: Path, files: Mapping[str, os.stat_result]) -> list[Mismatch]:
    """Files that are not 0444 and folders that are not 0755: somebody may write, or a server may not read.

    Args:
        files: of a `scan` of the checkpoint.
    """
    folders = {"."}
    for path in files:
        while path := path.rpartition("/")[0]:
            folders.add(path)
    modes = {path: (stat.S_IMODE(status.st_mode), FILE_MODE) for path, status in files.items()}
    modes |= {path: (stat.S_IMODE((checkpoint / path).stat().st_mode), FOLDER_MODE) for path in folders}
    return [
        Mismatch(path, f"has mode {actual:04o} instead of {wanted:04o}")
        for path, (actual, wanted) in sorted(modes.items())
        if actual != wanted
    ]


def check_file(checkpoint: Path, entry: FileEntry, on_bytes: OnBytes | None = None) -> Mismatch | None:
    """Hash a file as it is on the device; what differs is read a second time before it is believed.

    Raises:
        RetryableError: the second read gave what the first did not.
        OSError: it cannot be read.
    """
    file = checkpoint / entry.path
    actual = hash_file(file, on_bytes)
    if actual == entry.sha256:
        return None
    if hash_file(file) == entry.sha256:
        raise read_differently(file)
    return Mismatch(entry.path, f"has sha256 {actual} instead of {entry.sha256}")


def read_differently(file: Path) -> RetryableError:
    """Bytes were wrong when they were read first, and right the second time."""
    return RetryableError(
        "a file was wrong when it was read first, and right when it was read again",
        where=str(file),
        hint="the storage, the network or the memory of this host garbled it on the way: nothing is marked; "
        "run again, from another host if it comes back",
    )


def check_sealed(
    checkpoint: Path, *, clock: Callable[[], float], jobs: int = 1, on_bytes: OnBytes | None = None
) -> list[Mismatch]:
    """Look at a generation and hash all of its files; what was found is recorded beside it.

    One that is marked, or that lacks files, is damaged: nothing is read. One that proves damaged is marked;
    of one that is intact the time is kept.

    Args:
        clock: the file server's time, `Store.clock`.
        jobs: files hashed at a time.

    Raises:
        RetryableError: as `check_file`, or the generation was replaced while it was read.
        OSError: a file cannot be read.
    """
    if found := glance_at_sealed(checkpoint):
        return found
    try:
        manifest, began = manifest_of(checkpoint), clock()
        found = glance_at_name(checkpoint, manifest)
        with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
            checked = pool.map(lambda entry: check_file(checkpoint, entry, on_bytes), manifest.entries)
            found += [mismatch for mismatch in checked if mismatch is not None]
    except FileNotFoundError as error:  # another host is removing it: nothing is damaged, it is gone
        if found := glance_at_sealed(checkpoint):
            return found
        raise RetryableError(
            "the generation was replaced while it was read", where=str(checkpoint), hint="run again"
        ) from error
    if found:
        mark(checkpoint, found)
    else:
        record_verified(checkpoint, manifest, began)
    return found


def verified_since(checkpoint: Path) -> float | None:
    """Since when all files of a generation are known to be right, seconds since the epoch; None for never."""
    verified = Verified.of_generation(checkpoint)
    if verified.never:
        return None
    try:
        return verified.since(manifest_of(checkpoint).paths())
    except (FileNotFoundError, VerificationError):
        return None


def record_verified(checkpoint: Path, manifest: Manifest, time: float) -> None:
    """All files of a generation were found right at `time`, seconds since the epoch by the file server."""
    verified = Verified.of_generation(checkpoint)
    for path in manifest.paths():
        verified.set(path, time)
    verified.save()
