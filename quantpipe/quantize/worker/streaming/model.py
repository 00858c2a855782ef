"""The model, of which only one decoder layer exists at a time: msmodelslim's adapters, made to stream.

The skeleton (embedding, final norm, lm_head, rotary embedding) is built without layers on the meta device;
a layer is built on it too and then given its tensors. Embeddings that are tied are two matrices from here
on: rotated together they would be turned twice, and the final norm can be folded into lm_head only.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from msmodelslim.core.graph import AdapterConfig
from msmodelslim.model.qwen3.model_adapter import (
    Qwen3ModelAdapter,
    qwen3_get_rotate_map,
)
from msmodelslim.model.qwen3_moe.model_adapter import (
    Qwen3MoeModelAdapter,
    qwen3_moe_get_rotate_map,
)
from msmodelslim.processor.quarot import QuaRotInterface
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


class Streamed:
    """What both model families share; comes before msmodelslim's adapter in the order of bases.

    The maps of norms to fold, matrices to rotate and subgraphs to smooth are msmodelslim's, cut into
    layers (`*_of_layer`) and corrected for layers of a MoE model that have no experts: its own map names
    experts there which do not exist.
    """

    config: Any
    with_embedding = True
    """False when the embedding was done by an earlier run: nothing of it is here then."""

    def skeleton(self) -> Any:
        """The model without layers; all parameters on the meta device."""
        from transformers import AutoModelForCausalLM

        config = copy.deepcopy(self.config)
        config.num_hidden_layers = 0
        # What from_pretrained(torch_dtype="auto") gives: the type that config.json names.
        dtype = self.get_global_model_torch_dtype()  # type: ignore[attr-defined]
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config,
                dtype=dtype,
                trust_remote_code=self.trust_remote_code,  # type: ignore[attr-defined]
            )
        model.config.num_hidden_layers = self.config.num_hidden_layers
        rotary = model.model.rotary_emb
        model.model.rotary_emb = type(rotary)(config=model.config)
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone(), requires_grad=False)
        model.config.use_cache = False
        return model.eval()

    def new_layer(self, model: Any, index: int, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
        """Decoder layer `index` with its tensors, in place as the model's only layer.

        Raises:
            SnapshotError: a tensor is missing, is one too many, or has another shape.
        """
        module = sys.modules[type(model).__module__]
        kind = getattr(module, model._no_split_modules[0])
        with torch.device("meta"):
            layer: nn.Module = kind(model.config, index)
        fill(layer, tensors, layer_name(index), model.dtype)
        model.model.layers._modules = {str(index): layer.eval()}
        return layer

    def drop_layer(self, model: Any) -> None:
        """Forget the layer in work."""
        model.model.layers._modules = {}

    def capture(self, model: Any, hidden: torch.Tensor, attention_mask: torch.Tensor) -> Inputs:
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

    # -- msmodelslim's maps, a layer at a time ---------------------------------------------------

    def get_ln_fuse_map(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """For processor quarot: norms folded before the layers, and behind them."""
        return {}, {NORM: [HEAD]}

    def get_rotate_map(self, block_size: int) -> tuple[list[Any], list[Any]]:
        """For processor quarot: matrices turned before the layers, and behind them."""
        rot, _ = self.rotations(block_size)
        before = {EMBEDDING: rot} if self.with_embedding else {}
        pair = QuaRotInterface.RotatePair
        return [pair(left_rot={}, right_rot=before)], [pair(left_rot={}, right_rot={HEAD: rot})]

    def rotations(self, block_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """msmodelslim's own matrices: [hidden, hidden] and, for v_proj and o_proj, [head, head]."""
        raise NotImplementedError

    def fuse_map_of_layer(self, index: int, layer: nn.Module) -> dict[str, list[str]]:
        """The layer's norms, and the linears behind each."""
        name = layer_name(index)
        behind = [f"{name}.mlp.{linear}" for linear in _of(layer.mlp, ("gate_proj", "up_proj", "gate"))]
        return {
            f"{name}.input_layernorm": [f"{name}.self_attn.{part}_proj" for part in "qkv"],
            f"{name}.post_attention_layernorm": behind,
        }

    def rotate_map_of_layer(self, index: int, layer: nn.Module, block_size: int) -> list[Any]:
        """The layer's matrices to turn, in msmodelslim's order."""
        rot, rot_uv = self.rotations(block_size)
        attention, mlp = f"{layer_name(index)}.self_attn", f"{layer_name(index)}.mlp"
        left = {f"{attention}.o_proj": rot}
        left |= {f"{mlp}.{linear}": rot for linear in _of(layer.mlp, ("down_proj",))}
        right = {f"{attention}.{part}_proj": rot for part in "qkv"}
        right |= {f"{mlp}.{linear}": rot for linear in _of(layer.mlp, ("gate_proj", "up_proj", "gate"))}
        pair = QuaRotInterface.RotatePair
        return [
            pair(left_rot=left, right_rot=right),
            pair(left_rot={f"{attention}.v_proj": rot_uv}, right_rot={f"{attention}.o_proj": rot_uv}),
        ]

    def subgraphs_of_layer(self, index: int, layer: nn.Module) -> list[AdapterConfig]:
        """The layer's subgraphs to smooth, without those whose modules it does not have."""
        prefix = layer_name(index) + "."
        here = {prefix + name for name, _ in layer.named_modules()}
        return [graph for graph in self._subgraphs().get(index, []) if _names(graph) <= here]

    def _subgraphs(self) -> dict[int, list[AdapterConfig]]:
        """msmodelslim's own list, by layer."""
        if not hasattr(self, "_subgraphs_by_layer"):
            found: dict[int, list[AdapterConfig]] = {}
            for graph in self.get_adapter_config_for_subgraph():  # type: ignore[attr-defined]
                number = int(graph.mapping.targets[0].removeprefix(f"{LAYERS}.").partition(".")[0])
                found.setdefault(number, []).append(graph)
            self._subgraphs_by_layer = found
        return self._subgraphs_by_layer


class StreamedQwen3Moe(Streamed, Qwen3MoeModelAdapter):  # type: ignore[misc]
    """All sizes of Qwen3-MoE."""

    def rotations(self, block_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """See Streamed."""
        return _rotations(self, qwen3_moe_get_rotate_map, block_size)


class StreamedQwen3(Streamed, Qwen3ModelAdapter):  # type: ignore[misc]
    """All sizes of dense Qwen3."""

    def rotations(self, block_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """See Streamed."""
        return _rotations(self, qwen3_get_rotate_map, block_size)


def adapter_for(name: str, snapshot: Path, trust_remote_code: bool) -> Any:
    """Our adapter for msmodelslim's name of a model family.

    Raises:
        ValueError: there is none.
    """
    kinds: dict[str, Any] = {"Qwen3-235B": StreamedQwen3Moe, "Qwen3-32B": StreamedQwen3}
    if name not in kinds:
        raise ValueError(f"engine `streaming` has no adapter for {name}: use engine `stock`")
    return kinds[name](name, snapshot, trust_remote_code)


def fill(module: nn.Module, tensors: Mapping[str, torch.Tensor], name: str, dtype: torch.dtype) -> None:
    """Give a module on the meta device its tensors.

    Raises:
        SnapshotError: a tensor is missing, is one too many, or has another shape.
    """
    wanted = dict(module.named_parameters())
    missing, unknown = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or unknown:
        what = f"lacks {missing[0]}" if missing else f"has {unknown[0]}, which the model does not know"
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
    """Stands for the first layer and tells what it is called with."""

    def __init__(self, attention_type: str | None) -> None:
        super().__init__()
        if attention_type is not None:
            self.attention_type = attention_type

    def forward(self, hidden: torch.Tensor, **keywords: Any) -> torch.Tensor:
        raise _CapturedError(keywords)


def _of(mlp: nn.Module, linears: Iterable[str]) -> list[str]:
    """The names, below the MLP, of those linears: one each in a dense layer, one per expert in a MoE."""
    found = []
    for linear in linears:
        if hasattr(mlp, linear):
            found.append(linear)
        elif hasattr(mlp, "experts"):
            found += [f"experts.{number}.{linear}" for number in range(len(mlp.experts))]
    return found


def _names(graph: AdapterConfig) -> set[str]:
    source = graph.mapping.source
    return {*graph.mapping.targets, *([source] if source else [])}


def _rotations(adapter: Any, make: Any, block_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The two matrices that msmodelslim's own map would name, made once."""
    kept = getattr(adapter, "_rotations_made", None)
    if kept is None:
        config = copy.copy(adapter.config)
        config.num_hidden_layers = 0
        _, _, rot, rot_uv = make(config, block_size)
        kept = adapter._rotations_made = (rot, rot_uv)
    return kept
