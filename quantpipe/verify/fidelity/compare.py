"""Reconstruction against the BF16 source: what each quantized weight represents, with all rewriting undone.

Quantizing W8A8-rot rewrites the model without changing what it computes (msmodelslim's quarot,
flex_smooth_quant and m4):

* a norm g is folded into the linears after it, or shared with smoothing: weight * g is kept;
* the residual stream is rotated by an orthogonal R: weights that read it become W g R, others R' W;
* inside a head, v_proj is multiplied by some X and o_proj by its inverse;
* inside an MLP, up_proj's rows are multiplied by some s and down_proj's columns by 1/s.

So X and s are fitted on v_proj and up_proj, where they hide no error (many more numbers than unknowns), and
have to fit o_proj and down_proj. R is the described one; where none is described, it is the orthogonal matrix
that best rotates the source's embedding into the checkpoint's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from quantpipe.checkpoint.checkpoint import Checkpoint, open_checkpoint
from quantpipe.checkpoint.decode import Array, read_tensor
from quantpipe.checkpoint.modules import Module
from quantpipe.checkpoint.tensors import DYNAMIC, FLOAT, STATIC_TYPES
from quantpipe.errors import VerificationError
from quantpipe.verify.fidelity.result import Fidelity, ModuleError
from quantpipe.verify.fidelity.rotation import load_rotation, orthogonal
from quantpipe.verify.fidelity.sketch import Weight, distance, gaussian, scale_of
from quantpipe.verify.model import Model

_COMPARED = frozenset({FLOAT, DYNAMIC, *STATIC_TYPES})
_NEARLY_EQUAL = 0.02
_SAMPLES_PER_COLUMN = 4


def compare(model: Model, source: Path, *, jobs: int) -> Fidelity:
    """Compare every weight of a checkpoint with those of the BF16 model that it was made from.

    Raises:
        VerificationError: the source is not a directory of safetensors.
        OSError: a shard cannot be read.
    """
    original = open_checkpoint(source, jobs=jobs)
    if not original.tensors or original.quantized:
        raise VerificationError(
            "the source to compare with is not a BF16 model",
            where=str(source),
            hint="pass with --against the directory whose *.safetensors were quantized",
        )
    return _Comparison(model, original).run(jobs)


class _Comparison:
    def __init__(self, model: Model, source: Checkpoint) -> None:
        self._model = model
        self._source = source
        self._dims = model.dims
        self.fidelity = Fidelity("none")
        matrix = self._rotation()
        self._vectors = gaussian(self._dims.hidden)
        self._matrix = matrix
        self._rotated = self._vectors if matrix is None else matrix @ self._vectors

    def run(self, jobs: int) -> Fidelity:
        """All modules, layer by layer, `jobs` layers at a time."""
        layers: dict[int, list[Module]] = defaultdict(list)
        for module in self._model.modules.values():
            layers[module.layer].append(module)
        with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
            for errors in pool.map(self._quietly, layers.values()):
                self.fidelity.errors += errors
        return self.fidelity

    def _quietly(self, group: list[Module]) -> list[ModuleError]:
        """Overflow and NaN end in a large error; numpy need not warn, and its settings are a thread's own."""
        with np.errstate(all="ignore"):
            return list(self._layer(group))

    def _layer(self, group: list[Module]) -> Iterator[ModuleError]:
        """The modules of one layer, in their order: v_proj precedes o_proj, and up_proj its down_proj."""
        heads: Array | None = None
        rows: dict[int, Array | None] = {}
        for module in group:
            if not self._comparable(module):
                continue
            if module.kind == "norm":
                yield from self._norm(module)
            elif module.leaf == "v_proj":
                heads, error = self._value(module)
                yield error
                yield from self._bias(module, heads)
            elif module.leaf == "o_proj":
                if heads is not None:
                    yield self._output(module, heads)
            elif module.leaf == "up_proj":
                rows[module.expert], error = self._up(module)
                yield error
            elif module.leaf == "down_proj":
                yield self._down(module, rows.get(module.expert))
            else:
                yield self._reader(module)
                yield from self._bias(module, None)

    # -- what is on disk -----------------------------------------------------------------------

    def _original(self, module: Module) -> str:
        """The name of the source's tensor; of a tied head that of the embedding."""
        name = f"{module.name}.weight"
        tied = module.kind == "head" and name not in self._source.tensors
        return "model.embed_tokens.weight" if tied else name

    def _comparable(self, module: Module) -> bool:
        kind = self._model.types.get(module.name)
        tensor = self._model.tensors.get(f"{module.name}.weight")
        if kind is None or tensor is None:
            return False
        if kind not in _COMPARED or tensor.shape != module.shape or not self._well_shaped(module):
            self.fidelity.left_out.append(module.name)
            return False
        original = self._source.tensors.get(self._original(module))
        if original is None or original.shape != module.shape or original.dtype not in ("BF16", "F16", "F32"):
            self.fidelity.absent.append(f"{module.name}.weight")
            return False
        return True

    def _well_shaped(self, module: Module) -> bool:
        """Whether its tensors have the shapes that are computed with here (where not, A7 has said so)."""
        tensors = self._model.tensors
        specs = self._model.specs_of(module.name) or {}
        return all(
            tensors[name].shape == spec.shape
            for suffix, spec in specs.items()
            if (name := f"{module.name}.{suffix}") in tensors and spec.shape is not None
        )

    def _norm_in_front(self, module: Module) -> str | None:
        """The norm whose output the module reads; None where it reads something else."""
        if module.kind == "head":
            return "model.norm"
        if module.leaf in ("q_proj", "k_proj", "v_proj"):
            return f"model.layers.{module.layer}.input_layernorm"
        if module.kind == "router" or module.leaf in ("gate_proj", "up_proj"):
            return f"model.layers.{module.layer}.post_attention_layernorm"
        return None

    def _norm_weight(self, checkpoint: Checkpoint | Model, norm: str | None) -> Array | None:
        """A norm's weight, float32 [n]; None where there is none of the right shape."""
        tensor = checkpoint.tensors.get(f"{norm}.weight") if norm else None
        if norm is None or tensor is None or tensor.shape != self._model.modules[norm].shape:
            return None
        return read_tensor(checkpoint.path, tensor).astype(np.float32)

    def _pair(self, module: Module) -> tuple[Weight, Weight]:
        """The module in the checkpoint and in the source, both with the norm in front of them."""
        original = self._source.tensors[self._original(module)]
        quantized = self._model.tensors[f"{module.name}.weight"]
        float_type = self._model.types[module.name] == FLOAT
        scale = None if float_type else scale_of(self._model.path, self._model.tensors, module.name)
        norm = self._norm_in_front(module)
        return (
            Weight(self._model.path, quantized, scale, self._norm_weight(self._model, norm)),
            Weight(self._source.path, original, None, self._norm_weight(self._source, norm)),
        )

    # -- the rewritings, undone ----------------------------------------------------------------

    def _rotation(self) -> Array | None:
        described = load_rotation(self._model)
        if isinstance(described, np.ndarray) and orthogonal(described):
            self.fidelity.rotation = "described"
            return described.astype(np.float32)
        module = self._model.modules["model.embed_tokens"]
        if not self._comparable(module):
            return None
        found, expected = (_sample(weight, self._dims.hidden) for weight in self._pair(module))
        if distance(found, expected, 1)[0] < _NEARLY_EQUAL:
            return None
        self.fidelity.rotation = "estimated"
        return _nearest_rotation(found, expected)

    def _reader(self, module: Module) -> ModuleError:
        """Embedding, head, router, q, k, gate: their rows are rotated by R."""
        weight, original = self._pair(module)
        found, expected = weight.right(self._vectors), original.right(self._rotated)
        return ModuleError(module, *distance(found, expected, 1))

    def _norm(self, module: Module) -> Iterator[ModuleError]:
        """Norms inside a head are not rewritten; the others are compared with the linears after them."""
        if module.leaf in ("q_norm", "k_norm"):
            found = self._norm_weight(self._model, module.name)
            expected = self._norm_weight(self._source, module.name)
            if found is not None and expected is not None:
                yield ModuleError(module, *distance(found[:, None], expected[:, None], 1))

    def _value(self, module: Module) -> tuple[Array, ModuleError]:
        """v_proj: X for each KV head by least squares, and what is left of the difference."""
        weight, original = self._pair(module)
        found, expected = weight.whole(), original.whole()
        if self._matrix is not None:
            expected = expected @ self._matrix
        size = self._dims.head_dim
        fits, parts = [], []
        for head in range(self._dims.kv_heads):
            rows = slice(head * size, (head + 1) * size)
            fits.append(_fit(found[rows], expected[rows]))
            parts.append(fits[-1] @ expected[rows])
        # The error is measured on the found side, onto which the fit has mapped the source.
        return np.stack(fits), ModuleError(module, *distance(found, np.concatenate(parts), 1))

    def _bias(self, module: Module, heads: Array | None) -> Iterator[ModuleError]:
        """The bias of q, k or v, as a whole: v's went through X, as its weight did.

        Smoothing that gives the norm in front a bias (m4 of V0) changes it in another way.
        """
        name = f"{module.name}.bias"
        found, expected = self._model.tensors.get(name), self._source.tensors.get(name)
        if not module.bias or found is None or expected is None or found.shape != expected.shape:
            return
        if f"{self._norm_in_front(module)}.bias" in self._model.tensors:
            return
        given = read_tensor(self._source.path, expected).astype(np.float32)
        if heads is not None:
            given = np.einsum("khd,kd->kh", heads, given.reshape(heads.shape[:2])).reshape(-1)
        stored = read_tensor(self._model.path, found).astype(np.float32)
        error, _ = distance(stored[None, :], given[None, :], 1)
        yield ModuleError(module, error, error, tensor="bias")

    def _output(self, module: Module, heads: Array) -> ModuleError:
        """o_proj: with X put back, its columns are those of the source, rotated on the output side."""
        weight, original = self._pair(module)
        found, expected = weight.left(self._vectors), original.left(self._rotated)
        shape = (len(found), self._dims.heads, self._dims.head_dim)
        each = np.repeat(heads, self._dims.heads // self._dims.kv_heads, axis=0)
        restored = np.einsum("khd,hde->khe", found.reshape(shape), each).reshape(len(found), -1)
        return ModuleError(module, *distance(restored, expected, 0))

    def _up(self, module: Module) -> tuple[Array, ModuleError]:
        """up_proj: s for each row by least squares, and what is left of the difference."""
        weight, original = self._pair(module)
        found, expected = weight.right(self._vectors), original.right(self._rotated)
        size = np.maximum(np.einsum("ok,ok->o", expected, expected), 1e-30)
        factors = np.einsum("ok,ok->o", found, expected) / size
        return factors, ModuleError(module, *distance(found, expected * factors[:, None], 1))

    def _down(self, module: Module, rows: Array | None) -> ModuleError:
        """down_proj: with s put back, its columns are those of the source, rotated on the output side."""
        weight, original = self._pair(module)
        found, expected = weight.left(self._vectors), original.left(self._rotated)
        if rows is not None:
            found = found * rows[None, :]
        return ModuleError(module, *distance(found, expected, 0))


def _fit(found: Array, expected: Array) -> Array:
    """The matrix X for which X @ expected is nearest to found; zeros where the numbers allow none."""
    try:
        solution = np.linalg.lstsq(_finite(expected.T), _finite(found.T), rcond=None)[0]
    except np.linalg.LinAlgError:
        return np.zeros((len(found), len(expected)), np.float32)
    return np.asarray(solution.T, np.float32)


def _nearest_rotation(found: Array, expected: Array) -> Array | None:
    """The orthogonal matrix that best rotates expected into found (Schoenemann 1966), where there is one."""
    try:
        left, _, right = np.linalg.svd(_finite(expected.T @ found))
    except np.linalg.LinAlgError:
        return None
    return np.asarray(left @ right, np.float32)


def _finite(array: Array) -> Array:
    """NaN would make the solvers raise; zeros there make a large error of it."""
    return np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0)


def _sample(weight: Weight, hidden: int) -> Array:
    """The first rows of an embedding: several for each unknown direction."""
    wanted = _SAMPLES_PER_COLUMN * hidden
    parts: list[Array] = []
    for first, chunk in weight.rows():
        if first >= wanted:
            break
        parts.append(chunk)
    return np.concatenate(parts)[:wanted]
