"""Before the first byte: whether the store has room for the missing files of a snapshot."""

from __future__ import annotations

from pathlib import Path

from quantpipe.errors import PreflightError
from quantpipe.store.space import Space
from quantpipe.store.store import SPARE_BYTES
from quantpipe.text import human_bytes


def check_space(path: Path, *, missing_bytes: int, missing_files: int) -> None:
    """Refuse when the missing files do not fit. A quota counts where statvfs shows it (NFS, XFS projects).

    Args:
        path: where the snapshot is, or will be.
        missing_bytes: still to be fetched.

    Raises:
        PreflightError: too few bytes or inodes are free.
    """
    space = Space.below(path)
    if missing_bytes and space.free < missing_bytes + SPARE_BYTES:
        raise PreflightError(
            f"{human_bytes(space.free)} free, but the snapshot needs {human_bytes(missing_bytes)} more, "
            f"and {human_bytes(SPARE_BYTES)} must stay free",
            where=str(path),
            hint="free space (`quantpipe prune` lists what can be removed), or set QUANTPIPE_STORE "
            "to a larger store",
        )
    # A file, its receipt, their folders and a temporary name of each.
    if space.inodes is not None and space.inodes < 4 * missing_files + 16:
        raise PreflightError(
            f"the store has {space.inodes:,} inodes free; the snapshot needs {4 * missing_files + 16:,}",
            where=str(path),
            hint="remove files from the store's filesystem, or raise its inode limit",
        )
