"""Random quantized checkpoints in msmodelslim's layouts, for the serving interpreter (torch, safetensors).

A `Checkpoint` is tensors by name, the description and config.json in memory, so that a test can
spoil one before it writes it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file

HIDDEN, HEAD_DIM, HEADS, KV_HEADS, VOCAB, LAYERS = 128, 32, 4, 2, 256, 2
EXPERTS, TOP_K, MOE_INTERMEDIATE, INTERMEDIATE = 8, 2, 64, 192

MOE_CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": MOE_INTERMEDIATE,
    "norm_topk_prob": True,
    "num_experts": EXPERTS,
    "num_experts_per_tok": TOP_K,
}
DENSE_CONFIG = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
QWEN2_CONFIG = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
COMMON_CONFIG = {
    "attention_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": HEAD_DIM,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "max_position_embeddings": 512,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KV_HEADS,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": VOCAB,
}


@dataclass
class Checkpoint:
    """A checkpoint in memory. `extra_files` are further safetensors files, by name."""

    config: dict[str, object]
    layout: str
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    description: dict[str, object] = field(default_factory=dict)
    extra_files: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)

    def put(self, name: str, tensor: torch.Tensor, type_: str) -> None:
        self.tensors[name] = tensor.contiguous()
        self.description[name] = type_

    def write(self, directory: Path) -> Path:
        """Write two shards with the layout's names, the description and config.json."""
        directory.mkdir(parents=True, exist_ok=True)
        stem = "quant_model_weights" if self.layout == "V1" else "quant_model_weight_w8a8_dynamic"
        names = sorted(self.tensors)
        for number, shard in enumerate((names[::2], names[1::2]), start=1):
            file = directory / f"{stem}-{number:05d}-of-00002.safetensors"
            save_file({name: self.tensors[name] for name in shard}, file)
        for name, tensors in self.extra_files.items():
            save_file(tensors, directory / name)
        (directory / "config.json").write_text(json.dumps(self.config))
        (directory / "quant_model_description.json").write_text(json.dumps(self.description))
        return directory


def build(*, moe: bool, layout: str, seed: int = 0, norm_biases: bool | None = None) -> Checkpoint:
    """A random model, Qwen3-MoE or dense, in layout V0 or V1.

    V0 has norm biases (anti-outlier m4) by default. The dense model's MLP is dynamic in
    V1 and static in V0, so that fused static and row-parallel static layers occur in both.
    """
    generator = torch.Generator().manual_seed(seed)
    model = Checkpoint({**COMMON_CONFIG, **(MOE_CONFIG if moe else DENSE_CONFIG)}, layout)
    biased = (layout == "V0") if norm_biases is None else norm_biases
    writer = _Writer(model, generator, biased)
    _write_ends(writer)
    for layer in range(LAYERS):
        _write_layer(writer, f"model.layers.{layer}", moe)
    return model


def build_qwen2(*, seed: int = 0) -> Checkpoint:
    """A random dense Qwen2 in layout V1, with biases; q, k and v are static in layer 0, dynamic in 1."""
    generator = torch.Generator().manual_seed(seed)
    model = Checkpoint({**COMMON_CONFIG, **QWEN2_CONFIG}, "V1")
    writer = _Writer(model, generator, biased=False, qkv_bias=1.0)
    _write_ends(writer)
    for layer in range(LAYERS):
        _write_layer(writer, f"model.layers.{layer}", moe=False, head_norms=False, static=layer == 0)
    return model


def make_float(model: Checkpoint, layer: str) -> None:
    """Turn one quantized layer into a FLOAT one, as an exclusion in the recipe does. A bias stays."""
    for name in [name for name in model.tensors if name.startswith(f"{layer}.")]:
        tensor = model.tensors.pop(name)
        del model.description[name]
        if name == f"{layer}.weight":
            model.put(name, (0.001 * tensor.float()).to(torch.bfloat16), "FLOAT")
        elif name == f"{layer}.bias":
            model.put(name, tensor, "FLOAT")


def _write_ends(writer: _Writer) -> None:
    """The description's own entries, and the tensors that are in no layer."""
    writer.model.description |= {
        "model_quant_type": "W8A8",
        "version": "1.0.0",
        "group_size": 0,
        "metadata": {},
    }
    writer.float_weight("model.embed_tokens", VOCAB, HIDDEN, 1.0)
    writer.norm("model.norm", HIDDEN)
    writer.float_weight("lm_head", VOCAB, HIDDEN, 0.15)


def _write_layer(
    writer: _Writer, layer: str, moe: bool, *, head_norms: bool = True, static: bool = True
) -> None:
    for norm in ("input_layernorm", "post_attention_layernorm"):
        writer.norm(f"{layer}.{norm}", HIDDEN)
    for norm in ("q_norm", "k_norm") if head_norms else ():
        writer.norm(f"{layer}.self_attn.{norm}", HEAD_DIM)
    attention = f"{layer}.self_attn"
    for part, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
        if static:
            writer.static(f"{attention}.{part}_proj", heads * HEAD_DIM, HIDDEN, 0.03, -9, qkv=True)
        else:
            writer.dynamic(f"{attention}.{part}_proj", heads * HEAD_DIM, HIDDEN, qkv=True)
    writer.static(f"{attention}.o_proj", HIDDEN, HEADS * HEAD_DIM, 0.02, 5)
    if moe:
        writer.float_weight(f"{layer}.mlp.gate", EXPERTS, HIDDEN, 0.4)
        for expert in range(EXPERTS):
            _write_mlp(writer, f"{layer}.mlp.experts.{expert}", MOE_INTERMEDIATE, static=False)
    else:
        _write_mlp(writer, f"{layer}.mlp", INTERMEDIATE, static=writer.model.layout == "V0")


def _write_mlp(writer: _Writer, prefix: str, intermediate: int, *, static: bool) -> None:
    for part in ("gate_proj", "up_proj"):
        if static:
            writer.static(f"{prefix}.{part}", intermediate, HIDDEN, 0.03, 3)
        else:
            writer.dynamic(f"{prefix}.{part}", intermediate, HIDDEN)
    if static:
        writer.static(f"{prefix}.down_proj", HIDDEN, intermediate, 0.02, -4)
    else:
        writer.dynamic(f"{prefix}.down_proj", HIDDEN, intermediate)


@dataclass
class _Writer:
    model: Checkpoint
    generator: torch.Generator
    biased: bool
    qkv_bias: float = 0.0

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator)

    def float_weight(self, layer: str, out: int, in_: int, std: float) -> None:
        self.model.put(f"{layer}.weight", (std * self.random(out, in_)).to(torch.bfloat16), "FLOAT")

    def norm(self, norm: str, size: int) -> None:
        weight = 1 + 0.1 * self.random(size)
        self.model.put(f"{norm}.weight", weight.to(torch.bfloat16), "FLOAT")
        if self.biased:
            self.model.put(f"{norm}.bias", 0.05 * self.random(size), "FLOAT")

    def int8(self, out: int, in_: int) -> tuple[torch.Tensor, torch.Tensor]:
        weight = self.random(out, in_) / in_**0.5
        scale = weight.abs().amax(1, keepdim=True) / 127
        return torch.round(weight / scale).to(torch.int8), scale

    def bias(self, out: int, *, qkv: bool) -> torch.Tensor | None:
        """Of q, k and v: Qwen2's own, or what m4 smoothing of V0 adds."""
        size = self.qkv_bias or (0.05 if self.biased else 0.0)
        return size * self.random(out) if qkv and size else None

    def dynamic(self, layer: str, out: int, in_: int, *, qkv: bool = False) -> None:
        weight, scale = self.int8(out, in_)
        if (bias := self.bias(out, qkv=qkv)) is not None:
            self.model.put(f"{layer}.bias", bias, "FLOAT")
        dtype = torch.bfloat16 if self.model.layout == "V0" else torch.float32
        fields = {
            "weight": weight,
            "weight_scale": scale.to(dtype),
            "weight_offset": torch.zeros(out, 1, dtype=dtype),
        }
        for name, tensor in fields.items():
            self.model.put(f"{layer}.{name}", tensor, "W8A8_DYNAMIC")

    def static(self, layer: str, out: int, in_: int, scale: float, offset: int, *, qkv: bool = False) -> None:
        weight, weight_scale = self.int8(out, in_)
        old = self.model.layout == "V0"
        dtype = torch.bfloat16 if old else torch.float32
        input_scale = torch.tensor([scale]).to(torch.bfloat16)
        deq_scale = input_scale.float() * weight_scale.flatten()
        bias = self.bias(out, qkv=qkv)
        given = torch.zeros(out) if bias is None else bias
        quant_bias = torch.round(given / deq_scale - weight.long().sum(1) * offset).to(torch.int32)
        fields = {
            "weight": weight,
            "input_scale": input_scale.to(dtype),
            "input_offset": torch.tensor([offset], dtype=dtype),
            "quant_bias": quant_bias,
            "deq_scale": deq_scale,
        }
        if old:
            fields["weight_scale"] = weight_scale.to(dtype)
            fields["weight_offset"] = torch.zeros(out, 1, dtype=dtype)
        if bias is not None:
            fields["bias"] = bias.to(dtype)
        for name, tensor in fields.items():
            self.model.put(f"{layer}.{name}", tensor, "W8A8")
