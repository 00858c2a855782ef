"""The held-out prompts between two layers: all their tokens together, attention prompt by prompt."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from quantpipe.quantize.worker.streaming.model import EMBEDDING, capture

MOST_TOKENS = 256
"""Of each prompt, from its beginning: so the cost does not depend on the tokenizer."""

_BY_PROMPT = "quantpipe_by_prompt"


class HeldOutError(RuntimeError):
    """The held-out set cannot be used.

    Attributes:
        action: what to do next.
    """

    action = "choose other prompts in quality.dataset, or set `measure: false` there"


class HeldOut:
    """The prompts as one sequence of rows, and what a layer has to know about each of them.

    Args:
        prompts: [ids, attention mask] of each prompt, as the adapter makes them; MOST_TOKENS of each count.
        place: the device of the layers.

    Raises:
        HeldOutError: there is nothing to predict.

    Attributes:
        ids: of all tokens, [tokens].
        lengths: tokens of each prompt.
    """

    def __init__(self, prompts: Sequence[Sequence[torch.Tensor]], place: torch.device) -> None:
        self._masks = [mask[..., :MOST_TOKENS].to(place) for _, mask in prompts]
        parts = [ids.reshape(-1)[:MOST_TOKENS] for ids, _ in prompts]
        self.ids = torch.cat(parts).to(place)
        self.lengths = [int(part.numel()) for part in parts]
        self._place = place
        if max(self.lengths) < 2:
            raise HeldOutError("no prompt of the held-out set has two tokens: nothing is predicted")
        self._keywords: list[dict[str, Any]] = []

    def embed(self, model: nn.Module) -> torch.Tensor:
        """The embeddings of all tokens, [tokens, hidden]."""
        hidden: torch.Tensor = model.get_submodule(EMBEDDING)(self.ids)
        return hidden

    def learn(self, model: nn.Module, hidden: torch.Tensor) -> None:
        """Ask the model what it calls its layers with; only shape, type and device of `hidden` count."""
        for mask, part in zip(self._masks, hidden.split(self.lengths), strict=True):
            self._keywords.append(capture(model, part.unsqueeze(0), mask)[1])

    def forward(self, layer: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        """The layer's output for the hidden states of all tokens, [tokens, hidden]."""
        return self._forward(layer, hidden, range(len(self.lengths)))

    def forward_with_sample(
        self, layer: nn.Module, hidden: torch.Tensor, sample: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same, and the output for other hidden states of the sample (`sampled`), in one pass."""
        prompts = [*range(len(self.lengths)), *self._sample]
        result = self._forward(layer, torch.cat([hidden, sample]), prompts)
        return result[: len(hidden)], result[len(hidden) :]

    def sampled(self, hidden: torch.Tensor) -> torch.Tensor:
        """The rows of about a quarter of the prompts; in the shipped set, of both languages."""
        parts = hidden.split(self.lengths)
        return torch.cat([parts[number] for number in self._sample])

    @property
    def _sample(self) -> range:
        count = len(self.lengths)
        return range(0, count, count // 4 + 1)

    def _forward(self, layer: nn.Module, rows: torch.Tensor, prompts: Sequence[int]) -> torch.Tensor:
        keywords = [self._keywords[number] for number in prompts]
        lengths = [self.lengths[number] for number in prompts]
        masks = [given.get("attention_mask") for given in keywords]
        with _attention_by_prompt(layer, lengths, masks):
            result = layer(rows.unsqueeze(0), **_together(keywords))
        output: torch.Tensor = result[0] if isinstance(result, tuple) else result
        return output.squeeze(0)

    def predicted(self) -> torch.Tensor:
        """The rows whose next token is known: all but the last one of each prompt, [tokens - prompts]."""
        ends = torch.tensor(self.lengths).cumsum(0) - 1
        kept = torch.ones(sum(self.lengths), dtype=torch.bool)
        kept[ends] = False
        return kept.nonzero().squeeze(-1).to(self._place)


def _together(keywords: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The keyword arguments of one call for all prompts: what is by token is joined, masks are apart."""
    joined = dict(keywords[0])
    for name, value in keywords[0].items():
        values = [given[name] for given in keywords]
        if name == "attention_mask":
            joined[name] = None
        elif isinstance(value, tuple):  # cosines and sines of the positions, [1, tokens, head]
            joined[name] = tuple(torch.cat(parts, 1) for parts in zip(*values, strict=True))
        elif isinstance(value, torch.Tensor):  # positions, [1, tokens] or [tokens]
            joined[name] = torch.cat(values, -1)
    return joined


@contextlib.contextmanager
def _attention_by_prompt(layer: Any, lengths: Sequence[int], masks: Sequence[Any]) -> Iterator[None]:
    """Within it, attention does not see across prompts. The model's own function does the work."""
    config = layer.self_attn.config
    kept = config._attn_implementation
    module = sys.modules[type(layer.self_attn).__module__]
    attend = module.eager_attention_forward if kept == "eager" else ALL_ATTENTION_FUNCTIONS[kept]

    def by_prompt(
        attention: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: object,
        **options: Any,
    ) -> tuple[torch.Tensor, None]:
        del attention_mask
        split = (part.split(list(lengths), dim=2) for part in (query, key, value))
        results = [
            attend(attention, q, k, v, mask, **options)[0]
            for q, k, v, mask in zip(*split, masks, strict=True)
        ]
        return torch.cat(results, 1), None

    ALL_ATTENTION_FUNCTIONS[_BY_PROMPT] = by_prompt
    config._attn_implementation = _BY_PROMPT
    try:
        yield
    finally:
        config._attn_implementation = kept
        del ALL_ATTENTION_FUNCTIONS[_BY_PROMPT]
