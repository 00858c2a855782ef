"""A quantized Qwen3 in plain torch: the yardstick for the plugin, sharing no code with it or with vLLM.

Written from the format and the formulas: integer products in int64, one expert, one head and one
token at a time where that is clearer. Roundings to bfloat16 are where the NPU has its own: after each
layer, in weight scales and input scales.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

BF16 = torch.bfloat16


class ReferenceModel:
    """The model of one checkpoint directory."""

    def __init__(self, directory: Path) -> None:
        self.config: dict[str, Any] = json.loads((directory / "config.json").read_text())
        self.types = json.loads((directory / "quant_model_description.json").read_text())
        self.tensors: dict[str, torch.Tensor] = {}
        for file in sorted(directory.glob("*.safetensors")):
            with safe_open(str(file), "pt") as opened:
                self.tensors.update({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118

    def logprobs(self, tokens: list[int]) -> torch.Tensor:
        """float32 [tokens, vocabulary]: row i is the distribution of token i + 1."""
        stream = self.tensors["model.embed_tokens.weight"][tokens].float()
        for number in range(self.config["num_hidden_layers"]):
            layer = f"model.layers.{number}"
            delta = self.attention(f"{layer}.self_attn", self.norm(f"{layer}.input_layernorm", stream))
            stream = stream.to(BF16).float() + delta.float()
            delta = self.mlp(f"{layer}.mlp", self.norm(f"{layer}.post_attention_layernorm", stream))
            stream = stream.to(BF16).float() + delta.float()
        logits = self.linear("lm_head", self.norm("model.norm", stream))
        return torch.log_softmax(logits.float(), -1)

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        x = x.double()
        normed = x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.config["rms_norm_eps"])
        y = (normed.to(BF16) * self.tensors[f"{name}.weight"]).to(BF16)
        bias = self.tensors.get(f"{name}.bias")
        return y if bias is None else y + bias.to(BF16)

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return self.linear_float32(name, x).to(BF16)

    def linear_float32(self, name: str, x: torch.Tensor) -> torch.Tensor:
        type_ = self.types[f"{name}.weight"]
        weight = self.tensors[f"{name}.weight"]
        if type_ == "FLOAT":
            bias = self.tensors.get(f"{name}.bias", torch.zeros(()))
            return x.float() @ weight.float().T + bias.float()
        if type_ == "W8A8":
            reciprocal = (1.0 / self.tensors[f"{name}.input_scale"].to(BF16)).float()
            offset = self.tensors[f"{name}.input_offset"].float()
            q = torch.clamp(torch.round(x.float() * reciprocal + offset), -128, 127).long()
            total = q @ weight.long().T + self.tensors[f"{name}.quant_bias"].long()
            return total.float() * self.tensors[f"{name}.deq_scale"]
        assert type_ == "W8A8_DYNAMIC"
        token_scale = x.float().abs().amax(-1, keepdim=True) / 127
        q = torch.round(x.float() / token_scale).long()
        channel_scale = self.tensors[f"{name}.weight_scale"].to(BF16).float().T
        bias = self.tensors.get(f"{name}.bias", torch.zeros(()))  # rounded to the parameter's type
        return (q @ weight.long().T).float() * channel_scale * token_scale + bias.to(BF16).float()

    def attention(self, name: str, x: torch.Tensor) -> torch.Tensor:
        count, size = x.shape[0], self.config["head_dim"]
        q = self.linear(f"{name}.q_proj", x).view(count, -1, size)
        k = self.linear(f"{name}.k_proj", x).view(count, -1, size)
        v = self.linear(f"{name}.v_proj", x).view(count, -1, size)
        if f"{name}.q_norm.weight" in self.tensors:
            q, k = self.norm(f"{name}.q_norm", q), self.norm(f"{name}.k_norm", k)
        q, k = self.rotate(q), self.rotate(k)
        group = q.shape[1] // k.shape[1]
        future = torch.ones(count, count, dtype=torch.bool).triu(1)
        heads = []
        for head in range(q.shape[1]):
            scores = q[:, head].float() @ k[:, head // group].float().T / size**0.5
            weights = torch.softmax(scores.masked_fill(future, -torch.inf), -1)
            heads.append((weights @ v[:, head // group].float()).to(BF16))
        return self.linear(f"{name}.o_proj", torch.cat(heads, -1))

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        half = x.shape[-1] // 2
        frequency = self.config["rope_theta"] ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.arange(x.shape[0])[:, None] * frequency
        cos, sin = angle.cos().to(BF16).float()[:, None], angle.sin().to(BF16).float()[:, None]
        a, b = x[..., :half].float(), x[..., half:].float()
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(BF16)

    def mlp(self, name: str, x: torch.Tensor) -> torch.Tensor:
        if "num_experts" not in self.config:
            gate, up = self.linear(f"{name}.gate_proj", x), self.linear(f"{name}.up_proj", x)
            activated = torch.nn.functional.silu(gate.float()).to(BF16) * up
            return self.linear(f"{name}.down_proj", activated)
        rows = [self.token_experts(name, row[None]) for row in x]
        return torch.cat(rows)

    def token_experts(self, name: str, x: torch.Tensor) -> torch.Tensor:
        probabilities = torch.softmax(self.linear(f"{name}.gate", x).float(), -1)[0]
        chosen = probabilities.argsort(descending=True)[: self.config["num_experts_per_tok"]].tolist()
        total = probabilities[chosen].sum()
        out = torch.zeros_like(x, dtype=torch.float32)
        for expert in chosen:
            prefix = f"{name}.experts.{expert}"
            gate = self.linear_float32(f"{prefix}.gate_proj", x)
            up = self.linear_float32(f"{prefix}.up_proj", x)
            y = self.linear(f"{prefix}.down_proj", torch.nn.functional.silu(gate) * up)
            out += y.float() * (probabilities[expert] / total).to(BF16).float()
        return out.to(BF16)


class UnquantizedActivations(ReferenceModel):
    """The same weights without the quantization of activations: tests must see the difference."""

    def linear_float32(self, name: str, x: torch.Tensor) -> torch.Tensor:
        if self.types[f"{name}.weight"] == "FLOAT":
            return super().linear_float32(name, x)
        weight = self.tensors[f"{name}.weight"].float()
        if self.types[f"{name}.weight"] == "W8A8_DYNAMIC":
            bias = self.tensors.get(f"{name}.bias", torch.zeros(())).float()
            return x.float() @ (weight * self.tensors[f"{name}.weight_scale"].float()).T + bias
        deq_scale = self.tensors[f"{name}.deq_scale"]
        channel_scale = deq_scale / self.tensors[f"{name}.input_scale"].float()
        offset = self.tensors[f"{name}.input_offset"].float()
        bias = (self.tensors[f"{name}.quant_bias"] + weight.sum(1) * offset) * deq_scale
        return x.float() @ (weight * channel_scale[:, None]).T + bias
