"""A Qwen2, Qwen3 or Qwen3-MoE in plain torch, BF16 or quantized by msmodelslim: the study's own evaluation.

The whole model is in memory, and everything is computed in float32. Of a quantized linear exactly what the
server rounds is rounded: inputs to int8, scales and the reciprocal of input_scale to BF16; the products of
int8 values are exact up to sums of 2**24. It shares no code with the engine, with verify or with the vLLM
plugin, so that their figures can be compared with its own.

    W8A8           q = round(x * (1 / input_scale) + input_offset)
                   y = (q @ weight.T + quant_bias) * deq_scale
    W8A8_DYNAMIC   q = round(x / scale), scale = max |x| of the token / 127
                   y = (q @ weight.T) * weight_scale * scale + bias
    FLOAT          y = x @ weight.T + bias
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

DESCRIPTION = "quant_model_description.json"


class Plain:
    """The model in a directory, for one sequence at a time."""

    def __init__(self, directory: Path) -> None:
        self.config: dict[str, Any] = json.loads((directory / "config.json").read_text())
        path = directory / DESCRIPTION
        self.types: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        self.tensors: dict[str, torch.Tensor] = {}
        for file in sorted(directory.glob("*.safetensors")):
            with safe_open(str(file), "pt") as opened:
                for name in opened.keys():  # noqa: SIM118
                    self.tensors[name] = opened.get_tensor(name).float()
        for name, tensor in self.tensors.items():
            if name.endswith(("weight_scale", "input_scale")):
                tensor.copy_(tensor.bfloat16())
        heads = self.config["num_attention_heads"]
        self.head_dim: int = self.config.get("head_dim") or self.config["hidden_size"] // heads

    @torch.no_grad()
    def logits(self, tokens: list[int]) -> torch.Tensor:
        """float32 [tokens, vocabulary]: row i is for the token after token i."""
        x = self.tensors["model.embed_tokens.weight"][tokens]
        for number in range(self.config["num_hidden_layers"]):
            x = self.layer(f"model.layers.{number}", x)
        tied = "lm_head.weight" not in self.tensors
        return self.linear("model.embed_tokens" if tied else "lm_head", self.norm("model.norm", x))

    def layer(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """A decoder layer: [tokens, hidden] to the same."""
        x = x + self.attention(f"{name}.self_attn", self.norm(f"{name}.input_layernorm", x))
        normed = self.norm(f"{name}.post_attention_layernorm", x)
        mixed = f"{name}.mlp.gate.weight" in self.tensors
        return x + (self.experts(f"{name}.mlp", normed) if mixed else self.mlp(f"{name}.mlp", normed))

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """RMSNorm over the last dimension, with the bias that smoothing may have given it."""
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.config["rms_norm_eps"])
        return x * scale * self.tensors[f"{name}.weight"] + self.tensors.get(f"{name}.bias", 0.0)

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """[tokens, in] to [tokens, out], as the linear's type says."""
        kind, weight = self.types.get(f"{name}.weight", "FLOAT"), self.tensors[f"{name}.weight"]
        if kind == "FLOAT":
            return x @ weight.T + self.tensors.get(f"{name}.bias", 0.0)
        part = {s: self.tensors.get(f"{name}.{s}") for s in ("input_scale", "input_offset", "weight_scale")}
        if kind == "W8A8":
            reciprocal = (1 / part["input_scale"]).bfloat16().float()
            q = (x * reciprocal + part["input_offset"]).round().clamp(-128, 127)
            return (q @ weight.T + self.tensors[f"{name}.quant_bias"]) * self.tensors[f"{name}.deq_scale"]
        assert kind == "W8A8_DYNAMIC", kind
        scale = (x.abs().amax(-1, keepdim=True) / 127).clamp_min(1e-30)
        q = (x / scale).round().clamp(-128, 127)
        out = (q @ weight.T) * part["weight_scale"].flatten() * scale
        return out + self.tensors.get(f"{name}.bias", 0.0)

    def attention(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Causal attention with rotary positions."""
        q, k, v = (self.linear(f"{name}.{p}_proj", x).view(len(x), -1, self.head_dim) for p in "qkv")
        if f"{name}.q_norm.weight" in self.tensors:
            q, k = self.norm(f"{name}.q_norm", q), self.norm(f"{name}.k_norm", k)
        q, k = self.rotate(q), self.rotate(k)
        group = q.shape[1] // k.shape[1]
        k, v = (part.repeat_interleave(group, 1).transpose(0, 1) for part in (k, v))
        mixed = torch.nn.functional.scaled_dot_product_attention(q.transpose(0, 1), k, v, is_causal=True)
        return self.linear(f"{name}.o_proj", mixed.transpose(0, 1).reshape(len(x), -1))

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        """Rotary positions: the first half of a head with the second."""
        half = self.head_dim // 2
        frequency = self.config["rope_theta"] ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.arange(len(x))[:, None, None] * frequency
        cos, sin = angle.cos().float(), angle.sin().float()
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def mlp(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """SwiGLU."""
        gate = torch.nn.functional.silu(self.linear(f"{name}.gate_proj", x))
        return self.linear(f"{name}.down_proj", gate * self.linear(f"{name}.up_proj", x))

    def experts(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """The mixture: each token through its experts, weighted by the router."""
        share = torch.softmax(self.linear(f"{name}.gate", x), -1)
        weights, chosen = share.topk(self.config["num_experts_per_tok"], -1)
        if self.config.get("norm_topk_prob"):
            weights = weights / weights.sum(-1, keepdim=True)
        total = torch.zeros_like(x)
        for expert in chosen.unique().tolist():
            rows, rank = (chosen == expert).nonzero(as_tuple=True)
            total[rows] += self.mlp(f"{name}.experts.{expert}", x[rows]) * weights[rows, rank, None]
        return total
