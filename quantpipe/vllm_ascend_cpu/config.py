"""The interface that vLLM expects of a quantization: which layer is computed by which method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from vllm.config import get_current_vllm_config
from vllm.model_executor.layers.fused_moe import RoutedExperts
from vllm.model_executor.layers.linear import LinearBase, QKVParallelLinear, UnquantizedLinearMethod
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig, QuantizeMethodBase
from vllm.model_executor.layers.vocab_parallel_embedding import (
    UnquantizedEmbeddingMethod,
    VocabParallelEmbedding,
)

from quantpipe.checkpoint.dims import Dims, read_dims
from quantpipe.checkpoint.names import CONFIG, DESCRIPTION
from quantpipe.checkpoint.tensors import DYNAMIC, FLOAT, STATIC

from .description import Description, part_names
from .errors import CheckpointLoadError
from .expectations import (
    expect_embedding,
    expect_experts,
    expect_layer_norms,
    expect_linear,
    expect_norm,
)
from .ledger import LoadLedger
from .linear import DynamicLinearMethod, StaticLinearMethod
from .moe import DynamicMoEMethod

ARCHITECTURES = ("Qwen2ForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM")


class AscendCpuConfig(QuantizationConfig):  # type: ignore[misc]
    """`--quantization ascend` on the CPU: one instance per engine, copied to its workers."""

    def __init__(self) -> None:
        super().__init__()
        self._description: Description | None = None
        self._dims: Dims | None = None
        self._ledger: LoadLedger | None = None

    @property
    def description(self) -> Description:
        """The checkpoint's description; vLLM calls `maybe_update_config` before it builds a model."""
        assert self._description is not None
        return self._description

    def get_name(self) -> str:
        """The value of `--quantization`."""
        return "ascend"

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        """bfloat16 only: for float16 msmodelslim writes another layout of deq_scale."""
        return [torch.bfloat16]

    @classmethod
    def get_min_capability(cls) -> int:
        """0: there is no device."""
        return 0

    @staticmethod
    def get_config_filenames() -> list[str]:
        """None, as in vllm-ascend: `maybe_update_config` reads the description, with better errors."""
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> AscendCpuConfig:
        """Called with the `quantization_config` of config.json, which must not exist.

        Raises:
            CheckpointLoadError: it does: vllm-ascend then ignores the description.
        """
        if config:
            raise CheckpointLoadError(
                f"config.json has a quantization_config; with it, {DESCRIPTION} is ignored",
                where="config.json, key quantization_config",
                hint="delete the key, or quantize again from the unquantized model",
            )
        return cls()

    def maybe_update_config(
        self, model_name: str, hf_config: Any = None, revision: str | None = None
    ) -> None:
        """Read the description of the checkpoint in the directory `model_name`.

        Raises:
            CheckpointLoadError: no usable description, or an architecture that is not rehearsed.
        """
        if self._description is not None:
            return
        architectures = getattr(hf_config, "architectures", None) or []
        if not any(name in ARCHITECTURES for name in architectures):
            raise CheckpointLoadError(
                f"architecture {', '.join(architectures) or 'unknown'} is not rehearsed on the CPU, "
                f"only {' and '.join(ARCHITECTURES)}",
                where=str(Path(model_name) / CONFIG),
                hint="smoke-load this model on an NPU",
            )
        self._description = Description.read(model_name)
        self._dims = read_dims(hf_config.to_dict(), partial=True)
        self._ledger = LoadLedger(model_name)

    def get_cache_scale_mapper(self) -> Any:
        """The names of KV cache scales: none is changed.

        What matters is the time of the call: vLLM makes it when the model is built and before it loads the
        first tensor. A version without this call does no harm: the ledger then checks a little later.

        Raises:
            CheckpointLoadError: the files do not hold what the model needs.
        """
        self._load.check_files()
        return super().get_cache_scale_mapper()

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> QuantizeMethodBase | None:
        """The method of vLLM's layer `prefix`; its tensors are entered in the ledger.

        Raises:
            CheckpointLoadError: the description does not give the layer a type that is rehearsed.
        """
        if isinstance(layer, LinearBase):
            return self._linear_method(layer, prefix)
        if isinstance(layer, RoutedExperts):
            return self._experts_method(layer, prefix)
        if isinstance(layer, VocabParallelEmbedding):
            return self._embedding_method(prefix)
        return None

    def _linear_method(self, layer: Any, prefix: str) -> QuantizeMethodBase:
        type_ = self.description.linear_type(prefix)
        for part, out_features in zip(part_names(prefix), _out_features(layer), strict=True):
            out_in = (out_features, layer.input_size)
            expect_linear(self._load, part, type_, out_in, has_bias=layer.has_bias)
        if isinstance(layer, QKVParallelLinear):
            expect_layer_norms(self._load, prefix.rpartition(".self_attn.")[0], self._sizes, self.description)
        self._load.layers[f"{type_} linear layers"] += 1
        if type_ == FLOAT:
            return UnquantizedLinearMethod()
        if type_ == DYNAMIC:
            return DynamicLinearMethod(prefix, self._load)
        assert type_ == STATIC
        biased = self.description.has_norm_bias or layer.has_bias
        return StaticLinearMethod(prefix, self._load, float_bias_possible=biased)

    def _experts_method(self, layer: Any, prefix: str) -> QuantizeMethodBase | None:
        moe = layer.moe_config
        prefix = prefix.removesuffix(".routed_experts")
        type_ = self.description.experts_type(prefix, moe.num_experts)
        expect_experts(self._load, prefix, type_, moe.num_experts, self._sizes.hidden, moe.intermediate_size)
        self._load.layers[f"{type_} expert layers"] += 1
        return DynamicMoEMethod(moe, prefix, self._load) if type_ == DYNAMIC else None

    def _embedding_method(self, prefix: str) -> QuantizeMethodBase:
        self.description.embedding_type(prefix)
        expect_embedding(self._load, prefix, self._sizes)
        if prefix.endswith("embed_tokens"):
            _refuse_pipeline_parallel()
            final_norm = prefix.replace("embed_tokens", "norm")
            expect_norm(self._load, final_norm, self._sizes.hidden, self.description)
        return UnquantizedEmbeddingMethod()

    @property
    def _load(self) -> LoadLedger:
        assert self._ledger is not None
        return self._ledger

    @property
    def _sizes(self) -> Dims:
        assert self._dims is not None
        return self._dims


def _out_features(layer: Any) -> list[int]:
    """The output sizes of the whole layer's parts, before tensor parallelism splits or replicates them."""
    if isinstance(layer, QKVParallelLinear):
        heads = (layer.total_num_heads, layer.total_num_kv_heads, layer.total_num_kv_heads)
        return [count * layer.head_size for count in heads]
    return list(getattr(layer, "output_sizes", None) or [layer.output_size])


def _refuse_pipeline_parallel() -> None:
    if get_current_vllm_config().parallel_config.pipeline_parallel_size > 1:
        raise NotImplementedError(
            "pipeline parallelism is not rehearsed on the CPU: use --tensor-parallel-size, "
            "with or without --enable-expert-parallel"
        )
