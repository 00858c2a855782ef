"""What the tiny model can do: its known prompts with their margins, and figures over its corpus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tiny_text import Document
from transformers import PreTrainedTokenizerFast


def probe(
    model: Any, tokenizer: PreTrainedTokenizerFast, document: Document
) -> tuple[dict[str, object], float]:
    """One known prompt as written to the probes file, and its smallest margin top-1 minus top-2, in logits.

    Raises:
        RuntimeError: greedy decoding does not give the document's continuation.
    """
    prompt, rest = document.ids(tokenizer)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + rest])).logits[0].float()
        ids = torch.tensor([prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=len(rest))
    if out[0, len(prompt) :].tolist() != rest:
        raise RuntimeError(
            f"{document.prompt!r} goes on as {tokenizer.decode(out[0])!r}: train for more steps"
        )
    top = logits[len(prompt) - 1 : -1].topk(2).values
    entry: dict[str, object] = {
        "prompt": document.prompt,
        "continuation": document.continuation,
        "max_tokens": len(rest),
        "chat": document.chat,
    }
    return entry, float((top[:, 0] - top[:, 1]).min())


def write_probes(entries: list[dict[str, object]], path: Path) -> None:
    """Write the known prompts, one object per line."""
    lines = ",\n".join("  " + json.dumps(entry, ensure_ascii=False) for entry in entries)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def corpus_figures(
    model: Any, tokenizer: PreTrainedTokenizerFast, documents: list[Document]
) -> dict[str, object]:
    """Figures over the corpus, one document at a time.

    `nll`: nats per token. `expert_shares`: per layer, the share of routed tokens of each expert. `outliers`:
    per layer, the input of q/k/v and of the experts: largest over median channel, by absolute maximum.
    """
    inputs: dict[str, list[torch.Tensor]] = {}

    def keep(name: str) -> Any:
        return lambda _module, _args, output: inputs.setdefault(name, []).append(output.detach().float()[0])

    hooks = []
    for index, layer in enumerate(model.model.layers):
        hooks.append(layer.input_layernorm.register_forward_hook(keep(f"{index}.qkv")))
        hooks.append(layer.post_attention_layernorm.register_forward_hook(keep(f"{index}.experts")))
    total, count = 0.0, 0
    shares = torch.zeros(model.config.num_hidden_layers, model.config.num_experts)
    for document in documents:
        prompt, rest = document.ids(tokenizer)
        ids = torch.tensor([prompt + rest])
        with torch.no_grad():
            out = model(input_ids=ids, output_router_logits=True)
        total += float(
            torch.nn.functional.cross_entropy(out.logits[0, :-1].float(), ids[0, 1:], reduction="sum")
        )
        count += ids.shape[1] - 1
        for index, router in enumerate(out.router_logits):
            chosen = router.float().topk(model.config.num_experts_per_tok).indices.flatten()
            shares[index] += torch.bincount(chosen, minlength=model.config.num_experts)
    for hook in hooks:
        hook.remove()
    peaks = {name: torch.cat(parts).abs().amax(0) for name, parts in inputs.items()}
    return {
        "nll": round(total / count, 4),
        "tokens": count,
        "expert_shares": [
            [round(x, 3) for x in row] for row in (shares / shares.sum(1, keepdim=True)).tolist()
        ],
        "outliers": {name: round(float(peak.max() / peak.median()), 1) for name, peak in peaks.items()},
    }
