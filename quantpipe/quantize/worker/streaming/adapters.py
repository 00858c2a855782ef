"""msmodelslim's adapters of the model families, with their maps of modules cut into layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from msmodelslim.core.graph import AdapterConfig
from msmodelslim.model.qwen2_5.model_adapter import Qwen25ModelAdapter
from msmodelslim.model.qwen3.model_adapter import Qwen3ModelAdapter, qwen3_get_rotate_map
from msmodelslim.model.qwen3_moe.model_adapter import Qwen3MoeModelAdapter, qwen3_moe_get_rotate_map
from msmodelslim.processor.anti_outlier.flex_smooth import FlexSmoothQuantInterface
from msmodelslim.processor.anti_outlier.iter_smooth import IterSmoothInterface
from msmodelslim.processor.quarot import QuaRotInterface
from torch import nn

from quantpipe.quantize.worker.streaming.model import EMBEDDING, HEAD, LAYERS, NORM, layer_name


class Layerwise:
    """What the model families share; comes before msmodelslim's adapter in the order of bases.

    The maps of norms to fold, matrices to rotate and subgraphs to smooth are msmodelslim's, cut into
    layers (`*_of_layer`) and corrected for layers of a MoE model that have no experts: its own map names
    experts there which do not exist.
    """

    config: Any
    rotate_map: Callable[..., Any]
    """msmodelslim's function that makes the rotations and maps them to modules."""
    with_embedding = True
    """False when an earlier run did the embedding: it is not loaded then."""
    _matrices: tuple[torch.Tensor, torch.Tensor] | None = None
    _subgraphs: dict[int, list[AdapterConfig]] | None = None

    def get_ln_fuse_map(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """For processor quarot: norms folded before the layers, and after them."""
        return {}, {NORM: [HEAD]}

    def get_rotate_map(self, block_size: int) -> tuple[list[Any], list[Any]]:
        """For processor quarot: matrices rotated before the layers, and after them."""
        rot, _ = self.rotations(block_size)
        before = {EMBEDDING: rot} if self.with_embedding else {}
        pair = QuaRotInterface.RotatePair
        return [pair(left_rot={}, right_rot=before)], [pair(left_rot={}, right_rot={HEAD: rot})]

    def rotations(self, block_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """msmodelslim's own matrices: [hidden, hidden] and, for v_proj and o_proj, [head, head]."""
        if self._matrices is None:
            config = copy.copy(self.config)
            config.num_hidden_layers = 0
            config.head_dim = self.head_dim
            _, _, rot, rot_uv = self.rotate_map(config, block_size)
            self._matrices = rot, rot_uv
        return self._matrices

    @property
    def head_dim(self) -> int:
        """The size of one attention head."""
        size = getattr(self.config, "head_dim", None)
        return int(size or self.config.hidden_size // self.config.num_attention_heads)

    def fuse_map_of_layer(self, index: int, layer: nn.Module) -> dict[str, list[str]]:
        """The layer's norms, and the linears after each."""
        name = layer_name(index)
        after = [f"{name}.mlp.{linear}" for linear in _of(layer.mlp, ("gate_proj", "up_proj", "gate"))]
        return {
            f"{name}.input_layernorm": [f"{name}.self_attn.{part}_proj" for part in "qkv"],
            f"{name}.post_attention_layernorm": after,
        }

    def rotate_map_of_layer(self, index: int, layer: nn.Module, block_size: int) -> list[Any]:
        """The layer's matrices to rotate, in msmodelslim's order."""
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
        if self._subgraphs is None:
            self._subgraphs = _by_layer(self.get_adapter_config_for_subgraph())  # type: ignore[attr-defined]
        prefix = layer_name(index) + "."
        present = {prefix + name for name, _ in layer.named_modules()}
        return [graph for graph in self._subgraphs.get(index, []) if _names(graph) <= present]


class LayerwiseQwen3Moe(Layerwise, Qwen3MoeModelAdapter):  # type: ignore[misc]
    """All sizes of Qwen3-MoE."""

    rotate_map = staticmethod(qwen3_moe_get_rotate_map)


class LayerwiseQwen3(Layerwise, Qwen3ModelAdapter):  # type: ignore[misc]
    """All sizes of dense Qwen3."""

    rotate_map = staticmethod(qwen3_get_rotate_map)


class LayerwiseQwen2(
    Layerwise,
    Qwen25ModelAdapter,  # type: ignore[misc]
    QuaRotInterface,  # type: ignore[misc]
    FlexSmoothQuantInterface,  # type: ignore[misc]
    IterSmoothInterface,  # type: ignore[misc]
):
    """All sizes of dense Qwen2 and Qwen2.5.

    msmodelslim's own adapter has neither rotation nor smoothing. The modules are named as in Qwen3, so that
    Qwen3's maps apply. The biases of q, k and v are on the output side of their linears: only v's is rotated,
    with the heads (rotate_linear does that); residual stream and norms are on the input side.
    """

    rotate_map = staticmethod(qwen3_get_rotate_map)

    def get_adapter_config_for_subgraph(self) -> list[AdapterConfig]:
        """The subgraphs that smoothing may use: Qwen3's."""
        found: list[AdapterConfig] = Qwen3ModelAdapter.get_adapter_config_for_subgraph(self)
        return found

    def _load_tokenizer(self, trust_remote_code: bool = False) -> Any:
        # Qwen25ModelAdapter's adds tokens of the first Qwen to the vocabulary.
        return Qwen3ModelAdapter._load_tokenizer(self, trust_remote_code)


def adapter_for(name: str, snapshot: Path, trust_remote_code: bool) -> Any:
    """Our adapter for msmodelslim's name of a model family.

    Raises:
        ValueError: there is none.
    """
    kinds: dict[str, Any] = {
        "Qwen3-235B": LayerwiseQwen3Moe,
        "Qwen3-32B": LayerwiseQwen3,
        "Qwen2.5-7B-Instruct": LayerwiseQwen2,
    }
    if name not in kinds:
        raise ValueError(f"engine `streaming` has no adapter for {name}: use engine `stock`")
    return kinds[name](name, snapshot, trust_remote_code)


def _by_layer(graphs: Iterable[AdapterConfig]) -> dict[int, list[AdapterConfig]]:
    found: dict[int, list[AdapterConfig]] = {}
    for graph in graphs:
        number = int(graph.mapping.targets[0].removeprefix(f"{LAYERS}.").partition(".")[0])
        found.setdefault(number, []).append(graph)
    return found


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
