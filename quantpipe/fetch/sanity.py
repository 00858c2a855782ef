"""Cheap checks that find a wrong source before hours are spent on it: headers and index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from quantpipe.checkpoint.index import load_index
from quantpipe.checkpoint.names import INDEX_SUFFIX, SHARD_SUFFIX
from quantpipe.checkpoint.safetensors import load_header
from quantpipe.errors import VerificationError

_FETCH_AGAIN = "the source itself is damaged: fetch it from the hub again, or name another revision"


def check_shard(path: Path, *, name: str | None = None) -> frozenset[str]:
    """Check that a safetensors file is complete: its header is valid and its tensors fill it.

    Args:
        path: the file; only its header is read.
        name: how the error names it, where `path` is a temporary one.

    Returns:
        The names of its tensors.

    Raises:
        VerificationError: it is not; the message says how.
    """
    header = load_header(path, name or str(path))
    if header.defect is not None:
        raise VerificationError(
            f"the shard {header.defect}",
            where=header.shard,
            hint=_FETCH_AGAIN,
            details=header.problems[1:],
        )
    return frozenset(tensor.name for tensor in header.tensors)


def check_index(path: Path, present: Iterable[str], *, name: str | None = None) -> Mapping[str, str]:
    """Check that every shard which an index names is among the files of the source.

    Args:
        path: a `*.safetensors.index.json`.
        present: the paths of the source's files.
        name: the index's path in the source.

    Returns:
        Tensor name to shard path, relative to the source.

    Raises:
        VerificationError: it is not an index, or it names a shard that is missing.
    """
    shown = name or path.name
    index = load_index(path)
    if index.problems:
        raise VerificationError(f"the index {index.problems[0]}", where=shown, hint=_FETCH_AGAIN)
    folder = PurePosixPath(shown).parent
    located = {tensor: (folder / shard).as_posix() for tensor, shard in index.weight_map.items()}
    missing = sorted(set(located.values()) - set(present))
    if missing:
        raise VerificationError(
            f"the index names {missing[0]}, which is not among the files of the source"
            + (f" (and {len(missing) - 1:,} more are missing)" if len(missing) > 1 else ""),
            where=shown,
            hint="complete the source, or correct the include and exclude patterns of the recipe",
            details=missing[:20],
        )
    return located


def check_weights(root: Path, paths: Iterable[str]) -> None:
    """Check all headers and indexes of a directory that holds the files named by `paths`.

    Raises:
        VerificationError: as `check_shard` and `check_index`; or a tensor is not in its shard.
    """
    present = set(paths)
    for path in sorted(present):
        if path.endswith(INDEX_SUFFIX):
            check_index(root / path, present, name=path)
    held = {p: check_shard(root / p, name=p) for p in sorted(present) if p.endswith(SHARD_SUFFIX)}
    for path in sorted(present):
        if path.endswith(INDEX_SUFFIX):
            for tensor, shard in check_index(root / path, present, name=path).items():
                if tensor not in held.get(shard, frozenset((tensor,))):
                    raise VerificationError(
                        f"the index maps {tensor} to {shard}, which does not contain it",
                        where=path,
                        hint=_FETCH_AGAIN,
                    )
