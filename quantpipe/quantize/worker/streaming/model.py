"""The model, of which only one decoder layer exists at a time.

The skeleton (embedding, final norm, lm_head, rotary embedding) is built without layers on the meta device;
a layer is built on it too and then gets its tensors. Tied embeddings are two matrices from here on: rotated
together they would be rotated twice, and the final norm can be folded into lm_head only.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from quantpipe.quantize.worker.streaming.weights import SnapshotError, Weights

LAYERS = "model.layers"
EMBEDDING = "model.embed_tokens"
NORM = "model.norm"
HEAD = "lm_head"

Inputs = tuple[torch.Tensor, dict[str, Any]]
"""What a decoder layer is called with: hidden states [1, tokens, hidden], and keyword arguments."""


def layer_name(index: int) -> str:
    """The name of a decoder layer's module, which is the prefix of its tensors."""
    return f"{LAYERS}.{index}"


def skeleton(adapter: Any) -> Any:
    """The model of an adapter (adapters.py) without layers; all parameters on the meta device."""
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(adapter.config)
    config.num_hidden_layers = 0
    # What from_pretrained(torch_dtype="auto") gives: the type that config.json names.
    dtype = adapter.get_global_model_torch_dtype()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=adapter.trust_remote_code
        )
    model.config.num_hidden_layers = adapter.config.num_hidden_layers
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(config=model.config)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone(), requires_grad=False)
    model.config.use_cache = False
    return model.eval()


def new_layer(model: Any, index: int, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """Decoder layer `index` with its tensors, in place as the model's only layer.

    Raises:
        SnapshotError: a tensor is missing, unknown, or of another shape.
    """
    layer = empty_layer(model, index)
    fill(layer, tensors, layer_name(index), model.dtype)
    model.model.layers._modules = {str(index): layer}
    return layer


def empty_layer(model: Any, index: int) -> nn.Module:
    """Decoder layer `index` on the meta device, apart from the model."""
    module = sys.modules[type(model).__module__]
    kind = getattr(module, model._no_split_modules[0])
    with torch.device("meta"):
        layer: nn.Module = kind(model.config, index)
    return layer.eval()


def drop_layer(model: Any) -> None:
    """Remove the layer in progress from the model."""
    model.model.layers._modules = {}


def capture(model: Any, hidden: torch.Tensor, attention_mask: torch.Tensor) -> Inputs:
    """What the first decoder layer is called with for one prompt.

    Args:
        hidden: [1, tokens, hidden]; only its shape, type and device decide the keyword arguments.
        attention_mask: [1, tokens].
    """
    types = getattr(model.config, "layer_types", None)
    stub = _Stub(types[0] if types else None)
    kept = model.model.layers._modules
    model.model.layers._modules = {"0": stub}
    try:
        model(inputs_embeds=hidden, attention_mask=attention_mask)
    except _CapturedError as captured:
        return hidden, captured.keywords
    finally:
        model.model.layers._modules = kept
    raise RuntimeError("the model did not call its first layer")


def fill(module: nn.Module, tensors: Mapping[str, torch.Tensor], name: str, dtype: torch.dtype) -> None:
    """Give a module on the meta device its tensors.

    Raises:
        SnapshotError: a tensor is missing, unknown, or of another shape.
    """
    wanted = dict(module.named_parameters())
    missing, unknown = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or unknown:
        what = f"lacks {missing[0]}" if missing else f"has {unknown[0]}, which is not part of the model"
        raise SnapshotError(f"{name} {what}")
    for key, parameter in wanted.items():
        if tensors[key].shape != parameter.shape:
            shapes = f"{tuple(tensors[key].shape)} instead of {tuple(parameter.shape)}"
            raise SnapshotError(f"{name}.{key} has the shape {shapes}")
        owner, _, leaf = key.rpartition(".")
        value = nn.Parameter(tensors[key].to(dtype), requires_grad=False)
        module.get_submodule(owner)._parameters[leaf] = value


def read_embedding(weights: Weights) -> dict[str, torch.Tensor]:
    """The embedding's tensors, by their names in the module."""
    return weights.read_prefix(f"{EMBEDDING}.")


def read_head(weights: Weights, tied: bool) -> dict[str, torch.Tensor]:
    """lm_head's tensors; a copy of the embedding where the two are tied."""
    return weights.read_prefix(f"{EMBEDDING}." if tied else f"{HEAD}.")


class _CapturedError(Exception):
    def __init__(self, keywords: dict[str, Any]) -> None:
        super().__init__()
        self.keywords = keywords


class _Stub(nn.Module):  # type: ignore[misc]
    """Takes the place of the first layer and reports what it is called with."""

    def __init__(self, attention_type: str | None) -> None:
        super().__init__()
        if attention_type is not None:
            self.attention_type = attention_type

    def forward(self, hidden: torch.Tensor, **keywords: Any) -> torch.Tensor:
        raise _CapturedError(keywords)
