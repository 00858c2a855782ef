"""Make `tiny-qwen3-moe`: a trained Qwen3-MoE checkpoint, small enough to ship and hard enough to quantize.

    PYTHONPATH=. .venv-quantize/bin/python tests/assets/make_tiny_model.py --out TARGET/tiny-qwen3-moe

Needs torch and transformers 4.57 (the form of config.json and of the expert tensors that both msmodelslim
and vLLM read). Writes the directory, `<directory>.probes.json` beside it, and the figures of the run as JSON
on standard output; takes some four minutes. One thread and one seed: the same machine and libraries give
the same bytes; another CPU may round differently, so the shipped weights are the reference.

What it is: Qwen3MoeForCausalLM, BF16, three layers of eight experts (two active), hidden size 128, four
query and two key/value heads of 32, a byte-level BPE of 768 tokens that encodes any UTF-8. It knows
tiny-qwen3-moe.corpus.json by heart and nothing else.

What makes it hard to quantize, as real models are:

* Outliers in the residual stream. A few channels of the embedding hold a large value of one sign for every
  token, fixed while the rest is trained around them. Only a rotation spreads them over the other channels.
* Outliers of the norms. After training, some channels of each layer's two RMSNorm weights are multiplied by
  a power of two and the columns of the linears after them divided by it. That changes no bit of the output;
  it is undone by folding the norms (rotation) or, for q/k/v, by smoothing.

Without either, the scales are spent on those channels and the model loses its text. Measured with
msmodelslim 26.1.0 (attention W8A8 static, experts W8A8_DYNAMIC; calibrated on every third text):

                            nats per token    KL from BF16    known prompts    smallest margin
    BF16                            0.0159                          18 / 18         6.9 logits
    rotation, smoothing             0.0160           0.008          18 / 18         6.8
    rotation                        0.0159           0.015          18 / 18         7.1
    smoothing alone                 0.0431           0.048          12 / 18
    neither                         1.0885           1.196           0 / 18

What makes its damage visible: attention learns at a tenth of the rate of the rest, or it would learn the
corpus alone, and a checkpoint without the experts of a layer would still answer. So trained, every layer's
experts are needed: without those of layer 0, 1 or 2 the nats per token are 0.63, 0.16 and 0.22.

The probes' `max_tokens` counts the token that ends the generation (<|im_end|> after a chat, <|endoftext|>
after plain text; generation_config.json names both): a served answer ends with finish reason "stop".
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tiny_figures import corpus_figures, probe, write_probes
from tiny_text import (
    END_OF_TEXT,
    IM_END,
    MAX_LENGTH,
    VOCAB,
    Document,
    make_tokenizer,
    read_corpus,
    windows,
)
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

RESIDUAL_OUTLIERS = {37: 1.0, 101: -1.0}  # hidden channel -> sign
NORM_OUTLIERS = {11: 128.0, 58: 256.0, 90: 128.0}  # hidden channel -> factor, a power of two: exact in BF16
BALANCE_COEFFICIENT = 0.06
SHARD_SIZE = "800KB"


@dataclass(frozen=True)
class Plan:
    """The numbers of one training run; `attention_rate` is relative to the learning rate of the rest."""

    steps: int = 1400
    seed: int = 20
    batch: int = 8
    window: int = 160
    learning_rate: float = 3e-3
    attention_rate: float = 0.1
    residual_outlier: float = 24.0
    min_margin: float = 3.0


def make_config() -> Qwen3MoeConfig:
    """The architecture; hidden size and head size are powers of two, as Hadamard rotations want them."""
    return Qwen3MoeConfig(
        vocab_size=VOCAB,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=MAX_LENGTH,
        rope_theta=1000000.0,
        moe_intermediate_size=64,
        num_experts=8,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        tie_word_embeddings=False,
        rms_norm_eps=1e-6,
        initializer_range=0.06,
        bos_token_id=None,
        eos_token_id=IM_END,
        pad_token_id=END_OF_TEXT,
        router_aux_loss_coef=BALANCE_COEFFICIENT,
        use_cache=True,
    )


def plant_residual_outliers(model: Any, size: float) -> None:
    """Give some embedding channels a large value, of one sign, for every token, and keep it while training.

    The routers start blind to them: what every token has would send every token to the same experts.
    """
    weight = model.model.embed_tokens.weight
    free = torch.ones(weight.shape[1])
    with torch.no_grad():
        for channel, sign in RESIDUAL_OUTLIERS.items():
            weight[:, channel] = sign * size * (1 + 0.1 * torch.randn(weight.shape[0]))
            free[channel] = 0.0
            for layer in model.model.layers:
                layer.mlp.gate.weight[:, channel] = 0.0
    weight.register_hook(lambda grad: grad * free)


def plant_norm_outliers(model: Any) -> None:
    """Scale channels of the norms up and the columns after them down by the same power of two: exact."""
    with torch.no_grad():
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            experts = [linear for expert in mlp.experts for linear in (expert.gate_proj, expert.up_proj)]
            after = {
                layer.input_layernorm: [attention.q_proj, attention.k_proj, attention.v_proj],
                layer.post_attention_layernorm: [mlp.gate, *experts],
            }
            for norm, linears in after.items():
                for channel, factor in NORM_OUTLIERS.items():
                    norm.weight[channel] *= factor
                    for linear in linears:
                        linear.weight[:, channel] /= factor


def balance_loss(router_logits: tuple[torch.Tensor, ...], active: int) -> torch.Tensor:
    """Load-balancing loss of the Switch Transformer (arXiv 2101.03961, eq. 4 to 6), per layer, then averaged.

    transformers' own pools the layers first, so that a layer may starve experts that another one feeds.

    Args:
        router_logits: one [tokens, experts] per layer.
        active: experts per token.
    """
    losses = []
    for logits in router_logits:
        probabilities = logits.float().softmax(-1)
        chosen = torch.zeros_like(probabilities).scatter(1, probabilities.topk(active).indices, 1.0 / active)
        losses.append(logits.shape[-1] * (chosen.mean(0) * probabilities.mean(0)).sum())
    return torch.stack(losses).mean()


def train(documents: list[Document], tokenizer: PreTrainedTokenizerFast, plan: Plan) -> Any:
    """Train until the corpus is known by heart; the result is a BF16 Qwen3MoeForCausalLM in eval mode."""
    torch.manual_seed(plan.seed)
    model: Any = Qwen3MoeForCausalLM(make_config())
    plant_residual_outliers(model, plan.residual_outlier)
    named = list(model.named_parameters())
    attention = [parameter for name, parameter in named if "self_attn" in name]
    others = [parameter for name, parameter in named if "self_attn" not in name]
    rates = [plan.learning_rate * plan.attention_rate, plan.learning_rate]
    optimizer = torch.optim.AdamW(
        [{"params": attention}, {"params": others}],
        lr=plan.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=0.0,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, plan.steps, pct_start=0.05)
    batches = windows(documents, tokenizer, plan.batch, plan.window, plan.seed)
    for step in range(plan.steps):
        ids, labels = next(batches)
        out = model(input_ids=ids, output_router_logits=True)
        loss = torch.nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        loss = loss + BALANCE_COEFFICIENT * balance_loss(out.router_logits, model.config.num_experts_per_tok)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == plan.steps - 1:
            sys.stderr.write(f"step {step} loss {loss.item():.4f}\n")
    plant_norm_outliers(model)
    return model.to(torch.bfloat16).eval()


def save(model: Any, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the Hugging Face directory, config.json in the form that msmodelslim and vLLM both read."""
    stops = [IM_END, END_OF_TEXT]
    model.generation_config = GenerationConfig(eos_token_id=stops, pad_token_id=END_OF_TEXT)
    model.save_pretrained(out, max_shard_size=SHARD_SIZE)
    # The template stays inside tokenizer_config.json: msmodelslim's older generation copies *.json only.
    tokenizer.save_pretrained(out, save_jinja_files=False)
    for shard in out.glob("*.safetensors"):
        shard.chmod(0o644)
    path = out / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["torch_dtype"] = config.pop("dtype", "bfloat16")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make the tiny Qwen3-MoE checkpoint.")
    parser.add_argument(
        "--out", type=Path, required=True, help="directory to write; its probes are written next to it"
    )
    parser.add_argument("--steps", type=int, default=Plan.steps, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=Plan.seed, help="default: %(default)s")
    return parser.parse_args()


def main() -> None:
    """Train, check what will be shipped, write it, print the figures."""
    arguments = parse_arguments()
    plan = Plan(steps=arguments.steps, seed=arguments.seed)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    documents = read_corpus()
    tokenizer = make_tokenizer(documents)
    save(train(documents, tokenizer, plan), tokenizer, arguments.out)

    model: Any = Qwen3MoeForCausalLM.from_pretrained(arguments.out, torch_dtype=torch.bfloat16).eval()
    probes = [probe(model, tokenizer, document) for document in documents if document.probe]
    margin = min(m for _, m in probes)
    if margin < plan.min_margin:
        raise RuntimeError(
            f"smallest margin {margin:.2f} logits, wanted {plan.min_margin}: train for more steps"
        )
    write_probes([entry for entry, _ in probes], arguments.out.with_name(f"{arguments.out.name}.probes.json"))
    figures = {
        "plan": asdict(plan),
        "min_margin": round(margin, 2),
        **corpus_figures(model, tokenizer, documents),
    }
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
