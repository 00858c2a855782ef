"""What a hub may list. A listing comes from outside: a mirror, a proxy or somebody's repository wrote it.

Every path stays within the snapshot. What is chosen from the listing also fits next to itself and into the
store: receipts and hashes of a snapshot lie at `<path>.json`, temporary files at `.tmp-<32 digits>-<name>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

from quantpipe.errors import PreflightError, RecipeError, VerificationError
from quantpipe.fetch.hub import RemoteFile
from quantpipe.store.manifest import PROVENANCE

MAX_FILES = 20_000
"""Of a repository; Qwen3-235B has 130."""

MAX_PATH_BYTES = 1000
MAX_NAME_BYTES = 200
"""Linux has room for 4,095 and 255 bytes; the store's own folders, prefixes and endings need the rest."""

GIT_SHA1 = re.compile(r"[0-9a-f]{40}")
"""Of a commit, or of a blob."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_SIZE = 1 << 60
_SHOWN = 20
_REPORT = "do not trust this repository or mirror; report it"


def listed_file(path: Any, size: Any, sha256: Any = None, git_sha1: Any = None) -> RemoteFile:
    """One entry of a listing, from JSON values.

    Raises:
        ValueError: one of them makes no sense; a sentence without its subject.
    """
    if not isinstance(path, str):
        raise ValueError(f"lists a file whose path is {path!r:.80}")
    if type(size) is not int or not 0 <= size <= _MAX_SIZE:
        raise ValueError(f"lists {path!r:.200} with the size {size!r:.80}")
    for value, pattern in ((sha256, _SHA256), (git_sha1, GIT_SHA1)):
        if value is not None and not (isinstance(value, str) and pattern.fullmatch(value)):
            raise ValueError(f"lists {path!r:.200} with the hash {value!r:.80}")
    return RemoteFile(path, size, sha256, git_sha1)


def require_inside(files: Iterable[RemoteFile]) -> list[RemoteFile]:
    """The files, all of whose paths stay within the snapshot, and not too many.

    Raises:
        VerificationError: a path leads out of it, or there are more than `MAX_FILES`.
    """
    found = []
    for file in files:
        pure = PurePosixPath(file.path)
        if pure.is_absolute() or ".." in pure.parts or str(pure) != file.path or "\0" in file.path:
            raise _wrong(file.path, "is not a plain relative path", _REPORT)
        found.append(file)
        if len(found) > MAX_FILES:
            raise VerificationError(
                f"the source lists more than {MAX_FILES:,} files",
                where="source",
                hint="check source.repo: this is not a model repository",
            )
    return found


def require_storable(files: Sequence[RemoteFile]) -> None:
    """Refuse what the store could not hold, before the first byte is fetched.

    Raises:
        VerificationError: names of unprintable characters, too long ones, or two that exclude each other.
        RecipeError: one that quantpipe writes itself.
    """
    paths = {file.path for file in files}
    folders = {str(parent): path for path in paths for parent in PurePosixPath(path).parents}
    leave_out = "rename the file, or leave it out with source.exclude"
    for path in sorted(paths):
        if not path.isprintable():
            raise _wrong(path, "is not a printable name in UTF-8", leave_out)
        if max(len(part.encode()) for part in path.split("/")) > MAX_NAME_BYTES:
            raise _wrong(path, f"has a name of more than {MAX_NAME_BYTES} bytes", leave_out)
        if len(path.encode()) > MAX_PATH_BYTES:
            raise _wrong(path, f"is longer than {MAX_PATH_BYTES:,} bytes", leave_out)
        for folder in (path, f"{path}.json"):  # the file itself, and its receipt
            if folder in folders:
                raise _wrong(path, f"the store cannot hold beside {folders[folder][:200]!r}", leave_out)
    if PROVENANCE in paths or PROVENANCE in folders:
        raise RecipeError(
            f"the source contains {PROVENANCE}: it is a checkpoint that quantpipe made, not a BF16 model",
            where="source",
            hint="name the BF16 model in source.repo, or leave the file out with source.exclude",
        )


def unvouched(files: Iterable[RemoteFile]) -> list[str]:
    """The paths of files for which the hub lists no hash."""
    return [file.path for file in files if file.sha256 is None and file.git_sha1 is None]


def require_vouched(files: Sequence[RemoteFile], where: str) -> None:
    """Refuse files for which the hub lists no hash: nothing could tell them from damaged or changed ones.

    Args:
        where: the repository, for people.

    Raises:
        PreflightError: there are some; it names them.
    """
    if missing := unvouched(files):
        more = [f"and {len(missing) - _SHOWN:,} more"] if len(missing) > _SHOWN else []
        raise PreflightError(
            f"the hub lists no hash for {len(missing):,} of {len(files):,} files: "
            "nothing vouches for their bytes",
            where=where,
            hint="use the hub itself instead of a mirror (HF_ENDPOINT, MODELSCOPE_ENDPOINT), "
            "or accept them with `source.unverified: true`",
            details=[*missing[:_SHOWN], *more],
        )


def _wrong(path: str, why: str, hint: str) -> VerificationError:
    return VerificationError(f"the source lists {path[:200]!r}, which {why}", where="source", hint=hint)
