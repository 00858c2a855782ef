"""Sizes by kind of module, before and after quantizing, from the headers on disk."""

from __future__ import annotations

from collections import Counter, defaultdict
from math import prod
from pathlib import Path

from quantpipe.checkpoint.checkpoint import Checkpoint, open_checkpoint
from quantpipe.checkpoint.modules import KINDS, Module, modules
from quantpipe.report.document import KindSize

OTHER = "other"
"""The kind of tensors that belong to no known module."""

_BF16_BYTES = 2


def sizes_by_kind(generation: Path, snapshot: Path) -> tuple[KindSize, ...]:
    """In the order of `KINDS`, without those that the model lacks; empty where the headers cannot be read."""
    try:
        after = open_checkpoint(generation)
    except OSError:
        return ()
    if after.dims is None or not after.tensors:
        return ()
    known = {module.name: module for module in modules(after.dims)}
    before = _source_bytes(snapshot, known)
    sizes = _bytes_by_kind(after, known)
    types: dict[str, Counter[str]] = defaultdict(Counter)
    for module in known.values():
        kind = after.description.type_of(module.name) if after.description is not None else None
        types[module.kind][kind or "FLOAT"] += 1
    count = Counter(module.kind for module in known.values())
    return tuple(
        KindSize(kind, count[kind], before.get(kind, 0), sizes[kind], dict(sorted(types[kind].items())))
        for kind in (*KINDS, OTHER)
        if sizes[kind] or before.get(kind, 0)
    )


def architecture_of(generation: Path) -> str:
    """The model's class, as config.json names it; empty where that cannot be read."""
    try:
        config = open_checkpoint(generation).config or {}
    except OSError:
        return ""
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


def _bytes_by_kind(checkpoint: Checkpoint, known: dict[str, Module]) -> Counter[str]:
    found: Counter[str] = Counter()
    for name, tensor in checkpoint.tensors.items():
        module = known.get(name.rpartition(".")[0])
        found[module.kind if module else OTHER] += tensor.size
    return found


def _source_bytes(snapshot: Path, known: dict[str, Module]) -> Counter[str]:
    """From the snapshot, or, where that is gone, from shapes: two bytes a weight."""
    try:
        source = open_checkpoint(snapshot)
    except OSError:
        source = None
    if source is not None and source.tensors:
        return _bytes_by_kind(source, known)
    found: Counter[str] = Counter()
    for module in known.values():
        found[module.kind] += prod(module.shape) * _BF16_BYTES
    return found
