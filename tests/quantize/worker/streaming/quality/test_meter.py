"""What is measured is what two whole models in memory give, by code of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from ...engines import DENSE, HELD_OUT, MOE, OTHER, Quantizer, quality, spec

LONG = [*HELD_OUT, *OTHER, "A rose is a rose is a rose. " * 4]


# -- two whole models ----------------------------------------------------------------------------------


def whole_model(snapshot: Path, checkpoint: Path | None) -> Any:
    """The BF16 model, or the quantized one: its linears in float64, on rounded inputs."""
    model = AutoModelForCausalLM.from_pretrained(snapshot, dtype=torch.bfloat16)
    if checkpoint is None:
        return model
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())  # no longer tied
    values: dict[str, torch.Tensor] = {}
    for file in checkpoint.glob("*.safetensors"):
        values |= load_file(file)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and values[f"{name}.weight"].dtype == torch.int8:
            own = {key: values.pop(f"{name}.{key}") for key in list(suffixes(values, name))}
            module.forward = static(own) if "deq_scale" in own else dynamic(own)
    missing, unexpected = model.load_state_dict(values, strict=False)
    assert not unexpected
    assert all("_proj." in name for name in missing)
    return model


def suffixes(values: dict[str, torch.Tensor], name: str) -> list[str]:
    return [key.removeprefix(f"{name}.") for key in values if key.startswith(f"{name}.")]


def static(own: dict[str, torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """The server keeps the scale, and multiplies by its reciprocal, in bf16."""
    reciprocal = (1 / own["input_scale"].bfloat16()).double()

    def forward(x: torch.Tensor) -> torch.Tensor:
        q = (x.double() * reciprocal + own["input_offset"].double()).round().clamp(-128, 127)
        y = (q @ own["weight"].double().T + own["quant_bias"].double()) * own["deq_scale"].double()
        return y.to(x.dtype)

    return forward


def dynamic(own: dict[str, torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        scale = x.double().abs().amax(-1, keepdim=True) / 127
        rounded = (x.double() / scale.clamp(min=1e-30)).round() * scale
        return (rounded @ (own["weight"].double() * own["weight_scale"].double()).T).to(x.dtype)

    return forward


@torch.no_grad()  # type: ignore[untyped-decorator]
def plain_figures(snapshot: Path, checkpoint: Path, prompts: list[str]) -> dict[str, float]:
    tokenizer = AutoTokenizer.from_pretrained(snapshot)
    models = [whole_model(snapshot, each) for each in (None, checkpoint)]
    kl, same, nll = [], [], [[], []]  # type: ignore[var-annotated]
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        logprobs = [model(ids).logits[0, :-1].double().log_softmax(-1) for model in models]
        kl += (logprobs[0].exp() * (logprobs[0] - logprobs[1])).sum(-1).tolist()
        same += (logprobs[0].argmax(-1) == logprobs[1].argmax(-1)).tolist()
        for found, each in zip(nll, logprobs, strict=True):
            found += (-each.gather(-1, ids[0, 1:, None])).flatten().tolist()
    perplexities = [float(torch.tensor(each).double().mean().exp()) for each in nll]
    return {
        "kl_mean": sum(kl) / len(kl),
        "top1": sum(same) / len(same),
        "perplexity_bf16": perplexities[0],
        "perplexity_quantized": perplexities[1],
        "tokens": len(kl),
    }


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dense with biases, not rotated": ({**DENSE, "attention_bias": True}, {"rotate": False}),
    "moe, tied": ({**MOE, "tie_word_embeddings": True}, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_figures_are_those_of_two_whole_models(quantizer: Quantizer, tmp_path: Path, name: str) -> None:
    """Up to the rounding of bf16 sums in another order, which moves a few tokens to other experts."""
    model, recipe = CASES[name]
    snapshot = quantizer.make(tmp_path / "model", **model)
    done = quantizer.run(snapshot, tmp_path / "out", process=spec(**recipe), held_out=LONG)
    assert done["status"] == 0, done["events"]
    ours = quality(tmp_path / "out").summary
    plain = plain_figures(snapshot, tmp_path / "out" / "checkpoint", LONG)
    assert ours.tokens == plain["tokens"]
    assert ours.perplexity_bf16 == pytest.approx(plain["perplexity_bf16"], rel=0.01)
    assert ours.perplexity_quantized == pytest.approx(plain["perplexity_quantized"], rel=0.03)
    assert ours.kl_mean == pytest.approx(plain["kl_mean"], rel=0.1)
    assert abs(ours.top1 - plain["top1"]) <= 0.03
