"""Models of full size without a file: all tensors of a config, as headers would list them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from quantpipe.checkpoint.checkpoint import Checkpoint
from quantpipe.checkpoint.description import Description
from quantpipe.checkpoint.dims import read_dims
from quantpipe.checkpoint.modules import modules, specs
from quantpipe.checkpoint.safetensors import DTYPE_BYTES, Header, Tensor
from quantpipe.verify.model import Model, described_model


def from_shapes(config: dict[str, Any], *, v0: bool = False) -> Model:
    """A W8A8-rot checkpoint with all tensors of a config, without a file."""
    dims = read_dims(config)
    tensors = []
    types = {}
    for module in modules(dims):
        kind = {"attention": "W8A8", "expert": "W8A8_DYNAMIC"}.get(module.kind, "FLOAT")
        for suffix, spec in (specs(module, kind, dims.dtype, static_scales=v0) or {}).items():
            name, dtype = f"{module.name}.{suffix}", "F32" if "F32" in spec.dtypes else min(spec.dtypes)
            size = math.prod(spec.shape or ()) * DTYPE_BYTES[dtype]
            tensors.append(Tensor(name, dtype, spec.shape or (), "s", 0, size))
            types[name] = kind
        if v0 and module.kind == "norm":
            tensors.append(Tensor(f"{module.name}.bias", "F32", module.shape, "s", 0, 4 * module.out))
    header = Header("s", 0, tuple(tensors))
    checkpoint = Checkpoint(Path("x"), headers=(header,), description=Description(types), dims=dims)
    model = described_model(checkpoint, "0.23.0")
    assert model is not None
    return model
