"""Which quantization types a vllm-ascend version can serve, by kind of layer.

Source: vllm-ascend's quantization schemes (main of 2026-08-22, and its releases 0.13 to 0.26).
"""

from __future__ import annotations

import re

from quantpipe.checkpoint.tensors import DYNAMIC, FLOAT, FOUR_BIT, MIXED, STATIC, WEIGHTS_ONLY

_LINEAR = frozenset({FLOAT, STATIC, DYNAMIC, WEIGHTS_ONLY})
_EXPERTS = frozenset({FLOAT, DYNAMIC, FOUR_BIT})
_LAST_WITH_OLD_TYPES = (0, 26)


def supported_types(target: str, kind: str) -> frozenset[str]:
    """The types that `target` serves for a kind of module.

    Args:
        target: a version such as `0.23.0`, or `main`.
        kind: as in `modules.Module`.
    """
    old = version_of(target) <= _LAST_WITH_OLD_TYPES
    if kind in ("embed", "norm"):
        return frozenset({FLOAT})
    if kind == "expert":
        return _EXPERTS | {MIXED} if old else _EXPERTS
    return _LINEAR | {MIXED, FOUR_BIT} if old else _LINEAR


def version_of(target: str) -> tuple[int, int]:
    """Major and minor version; `main` is newer than all.

    Raises:
        ValueError: it is not a version.
    """
    if target == "main":
        return (1 << 16, 0)
    found = re.match(r"(\d+)\.(\d+)", target)
    if not found:
        raise ValueError(f"{target!r} is not a version of vllm-ascend, such as 0.23.0")
    return int(found.group(1)), int(found.group(2))
