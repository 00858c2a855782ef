"""What a rotated checkpoint has to show: its matrix, its folded norms, and untied embeddings (check B11).

Rotation folds each RMSNorm into the linears after it, which leaves ones; smoothing may then write its own
factors into the norms again, but never into the last one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from quantpipe.checkpoint.decode import Array, read_tensor
from quantpipe.checkpoint.names import CONFIG
from quantpipe.checkpoint.safetensors import read_header
from quantpipe.verify.fidelity.result import Fidelity
from quantpipe.verify.finding import Defect
from quantpipe.verify.model import Model
from quantpipe.verify.values import Values

_MATRIX = "global_rotation"
_PROBES = 8
_ORTHOGONAL = 1e-3
_MAX_HIDDEN = 1 << 15

ENDS = ("embed", "head")
"""Kinds of modules that only the rotation rewrites, except for the last norm."""

FLOAT_BOUND = 0.02
"""Largest relative error of a FLOAT weight: BF16 rounds a rotated one by 0.2 %."""


def load_rotation(model: Model) -> Array | str | None:
    """The rotation, float32 [hidden, hidden]; the text of a problem; None where none is described.

    Raises:
        OSError: its file cannot be read now.
    """
    relative = model.description.rotation_path
    if relative is None:
        return None
    if problem := _path_problem(model.path, relative):
        return problem
    header = read_header(model.path / relative, relative)
    tensor = next((tensor for tensor in header.tensors if tensor.name == _MATRIX), None)
    if header.problems or tensor is None:
        return "the described rotation cannot be read"
    hidden = model.dims.hidden
    if (
        hidden > _MAX_HIDDEN
        or tensor.shape != (hidden, hidden)
        or tensor.dtype not in ("F32", "BF16", "F16", "F64")
    ):
        return "the described rotation is not a matrix of the model's hidden size"
    return read_tensor(model.path, tensor)


def _path_problem(root: Path, relative: str) -> str | None:
    pure = PurePosixPath(relative)
    if pure.is_absolute() or ".." in pure.parts or not relative.isprintable():
        return "the described rotation is outside the checkpoint"
    target = root / relative
    if not target.is_file():
        return "the described rotation is missing"
    if not target.resolve().is_relative_to(root.resolve()):
        return "the described rotation is outside the checkpoint"
    return None


def rotation_defects(model: Model, values: Values | None, fidelity: Fidelity | None) -> Iterator[Defect]:
    """All that can be said of the rotation without the source; more of it with a deep look."""
    described = model.description.rotation_path
    if described is not None:
        matrix = load_rotation(model)
        if isinstance(matrix, str):
            yield Defect(described, matrix)
        elif matrix is not None and not orthogonal(matrix):
            yield Defect(described, "the described rotation is not orthogonal")
        if model.dims.tied:
            text = "a rotated model has tie_word_embeddings: embedding and head cannot share one matrix"
            yield Defect(CONFIG, text)
    if values is not None:
        yield from _norm_defects(model, values, rotated=described is not None)
    if fidelity is not None and fidelity.rotation == "described":
        text = "a weight is not the source's weight rotated once by the described rotation"
        for item in fidelity.errors:
            if item.module.kind in ENDS and not item.error <= FLOAT_BOUND:
                yield Defect(f"{item.module.name}.weight", text, f"off by {item.error:.1%}")


def orthogonal(matrix: Array) -> bool:
    """Whether matrix.T @ matrix is the identity, tried on random vectors: n**2 work instead of n**3."""
    probes = np.random.default_rng(0).standard_normal((matrix.shape[0], _PROBES)).astype(np.float32)
    if not np.isfinite(matrix).all():
        return False
    back = matrix.T @ (matrix @ probes)
    return bool(np.linalg.norm(back - probes) < _ORTHOGONAL * np.linalg.norm(probes))


def _norm_defects(model: Model, values: Values, *, rotated: bool) -> Iterator[Defect]:
    """The last norm is folded in a rotated model; others of a kind are folded in all layers or in none."""
    small = values.small
    last = small.get("model.norm.weight")
    folded_last = last is not None and bool((last == 1).all())
    if rotated and last is not None and not folded_last:
        yield Defect(
            "model.norm.weight", "the rotation is described, but the last norm was not folded into lm_head"
        )
    for kind in ("input_layernorm", "post_attention_layernorm"):
        folded = {}
        for layer in range(model.dims.layers):
            weight = small.get(name := f"model.layers.{layer}.{kind}.weight")
            if weight is not None:
                folded[name] = bool((weight == 1).all())
        if len(set(folded.values())) > 1:
            rare = sum(folded.values()) * 2 <= len(folded)
            for name, is_folded in folded.items():
                if is_folded == rare:
                    yield Defect(name, "a norm is folded in some layers and not in others")
