"""Cheap looks that find a wrong source before hours are spent on it: headers and index.

Format: https://huggingface.co/docs/safetensors - eight bytes of length N (little endian), N bytes of JSON
`{name: {"dtype", "shape", "data_offsets": [begin, end]}}`, then the data to the end of the file.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from quantpipe.checkpoint.names import INDEX_SUFFIX, SHARD_SUFFIX
from quantpipe.errors import VerificationError

_LARGEST_HEADER = 100 << 20
_FETCH_AGAIN = "the source itself is damaged: fetch it from the hub again, or name another revision"


def check_shard(path: Path, *, name: str | None = None) -> frozenset[str]:
    """Check that a safetensors file is as long as its header says.

    Args:
        path: the file; only its header is read.
        name: how the error names it, where `path` is a temporary one.

    Returns:
        The names of its tensors.

    Raises:
        VerificationError: the header cannot be read, or the file is too short or too long.
    """
    shown = name or str(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(_LARGEST_HEADER, max(size - 8, 0)):
            raise VerificationError(
                f"not a safetensors file: its header of {length:,} bytes does not fit into {size:,} bytes",
                where=shown,
                hint=_FETCH_AGAIN,
            )
        tensors = _tensors(file.read(length), shown)
    ends = [_end(entry, shown) for entry in tensors.values()]
    expected = 8 + length + max(ends, default=0)
    if expected != size:
        raise VerificationError(
            f"the file has {size:,} bytes, its header says {expected:,}", where=shown, hint=_FETCH_AGAIN
        )
    return frozenset(tensors)


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
    try:
        weights = json.loads(path.read_text("utf-8"))["weight_map"]
        folder = PurePosixPath(shown).parent
        located = {str(tensor): (folder / shard).as_posix() for tensor, shard in weights.items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise VerificationError(f"not an index: {error!r}", where=shown, hint=_FETCH_AGAIN) from error
    missing = sorted(set(located.values()) - set(present))
    if missing:
        raise VerificationError(
            f"the index names {missing[0]}, which is not among the files of the source"
            + (f" (nor are {len(missing) - 1:,} others)" if len(missing) > 1 else ""),
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
                        f"the index puts {tensor} into {shard}, which does not hold it",
                        where=path,
                        hint=_FETCH_AGAIN,
                    )


def _tensors(header: bytes, shown: str) -> dict[str, Any]:
    try:
        value = json.loads(header)
        if not isinstance(value, dict):
            raise TypeError("not an object")
    except (ValueError, TypeError) as error:
        raise VerificationError(
            f"the safetensors header is not JSON: {error}", where=shown, hint=_FETCH_AGAIN
        ) from error
    value.pop("__metadata__", None)
    return value


def _end(entry: Any, shown: str) -> int:
    try:
        begin, end = entry["data_offsets"]
        if not 0 <= int(begin) <= int(end):
            raise ValueError(f"offsets {begin}, {end}")
        return int(end)
    except (KeyError, TypeError, ValueError) as error:
        raise VerificationError(
            f"the safetensors header has a wrong entry: {error!r}", where=shown, hint=_FETCH_AGAIN
        ) from error
