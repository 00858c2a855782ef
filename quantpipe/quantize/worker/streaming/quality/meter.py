"""What the runner calls to measure: the held-out set on its two paths through the model.

The reference's hidden states are those of the model as published; the quantized model's are rotated where the
recipe rotates. Compared are those of the quantized model and the rotated reference's: a rotation changes
neither a ratio of norms nor an angle. The divergence of the logits needs no rotation at all, so that a
mistake in the rotation itself shows there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from quantpipe.quantize.worker import device
from quantpipe.quantize.worker.streaming import moe
from quantpipe.quantize.worker.streaming.memory import PagePool
from quantpipe.quantize.worker.streaming.model import layer_name
from quantpipe.quantize.worker.streaming.quality.figures import (
    chunks,
    cosine,
    decibels,
    divergence,
    noise,
    short,
)
from quantpipe.quantize.worker.streaming.quality.heldout import HeldOut
from quantpipe.quantize.worker.streaming.quality.served import Linear, served_layer
from quantpipe.store.quality import LayerQuality, PromptQuality

_REFERENCE, _QUANTIZED = "quality.reference", "quality.quantized"
"""Keys of the hidden states between two layers, [tokens, hidden] each."""

Figures = dict[str, Any]
"""What a unit adds: see report.py."""


@dataclass(frozen=True)
class Reached:
    """How many tokens of a set reach the modules of a layer.

    Attributes:
        tokens: of the set.
        experts: tokens of each expert; empty where the layer has none.
    """

    tokens: int
    experts: tuple[int, ...]

    def of(self, linear: str) -> int:
        """The tokens that reach a linear, which may be one of an expert."""
        found = re.search(r"\.experts\.(\d+)\.", linear)
        return self.experts[int(found[1])] if found and self.experts else self.tokens

    def missed(self) -> list[int]:
        """The experts that none of them reaches."""
        return [number for number, tokens in enumerate(self.experts) if not tokens]


class Meter:
    """The held-out set between two layers, and the figures of each unit.

    Args:
        prompts: [ids, attention mask] of each prompt.
        dataset: digest of the prompts.
        rotation: of the hidden states, float [hidden, hidden]; None where there is none.
        place: the device of the layers.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[torch.Tensor]],
        dataset: str,
        rotation: torch.Tensor | None,
        place: torch.device,
    ) -> None:
        self._set = HeldOut(prompts, place)
        self._dataset, self._place = dataset, place
        self._rotation = None if rotation is None else rotation.to(place).float()
        self._originals: dict[str, Linear] = {}
        self._pool = PagePool()
        self._paths: dict[str, torch.Tensor] = {}
        self._reached = Reached(sum(self._set.lengths), ())

    # -- between layers --------------------------------------------------------------------------

    def enter(self, model: nn.Module) -> None:
        """Embed the prompts with the embedding as it was read."""
        self._paths[_REFERENCE] = self._set.embed(model)

    def enter_quantized(self, model: nn.Module) -> Figures:
        """Embed them with the embedding as it is written."""
        self._paths[_QUANTIZED] = self._set.embed(model)
        self._set.learn(model, self._paths[_REFERENCE])
        return self._figures()

    def resume(self, model: nn.Module, boundary: Mapping[str, torch.Tensor]) -> None:
        """Enter a layer with what `boundary` gave."""
        self._paths = {name: boundary[name].to(self._place) for name in (_REFERENCE, _QUANTIZED)}
        self._set.learn(model, self._paths[_REFERENCE])

    def boundary(self) -> dict[str, torch.Tensor]:
        """The hidden states that enter the next unit."""
        return dict(self._paths)

    # -- through a layer -------------------------------------------------------------------------

    def keep(self, name: str, linear: nn.Linear) -> None:
        """Keep a linear that is about to be quantized in place: rotated and smoothed, but float."""
        self._originals[name] = self._copy(linear.weight.detach()), linear.bias

    def _copy(self, weight: torch.Tensor) -> torch.Tensor:
        """In memory that the next layer uses again: a layer's copies would fragment the heap."""
        if weight.device.type != "cpu":
            return weight.clone()
        values = torch.from_numpy(self._pool.take(weight.numel() * weight.element_size()))
        copied = values[: weight.numel() * weight.element_size()].view(weight.dtype).view(weight.shape)
        return copied.copy_(weight)

    def reference(self, layer: nn.Module) -> torch.Tensor:
        """The layer's output on the reference path, before any processor has changed the layer.

        Returns:
            What the quantized layer is given to see what it adds: a sample of the input, rotated.
        """
        given = self._rotated(self._set.sampled(self._paths[_REFERENCE]))
        moe.take_counts(layer)
        self._paths[_REFERENCE] = self._set.forward(layer, self._paths[_REFERENCE])
        self._reached = replace(self._reached, experts=tuple(moe.take_counts(layer)))
        return given

    def quantized(
        self,
        model: nn.Module,
        index: int,
        given: torch.Tensor,
        tensors: Mapping[str, torch.Tensor],
        description: Mapping[str, str],
        calibrated: Reached,
    ) -> Figures:
        """The quantized layer's outputs, and what they say.

        Args:
            given: of `reference`.
            tensors, description: of the layer, as they are written.
            calibrated: the calibration set.
        """
        on_device = device.move(tensors, self._place)
        layer, watches = served_layer(model, index, on_device, description, self._originals)
        on_path, alone = self._set.forward_with_sample(layer, self._paths[_QUANTIZED], given)
        wanted = self._rotated(self._paths[_REFERENCE])
        expected = self._set.sampled(wanted)
        self._paths[_QUANTIZED] = on_path
        figures = LayerQuality(
            index=index,
            sqnr=decibels(noise(expected, alone)),
            cosine=cosine(expected, alone),
            path_sqnr=decibels(noise(wanted, on_path)),
            path_cosine=cosine(wanted, on_path),
        )
        linears = [
            watch.figures(self._reached.of(watch.name), calibrated.of(watch.name)) for watch in watches
        ]
        self._originals.clear()
        return self._figures(
            layer=asdict(figures),
            linears=[asdict(linear) for linear in linears],
            unreached=[f"{layer_name(index)}.mlp.experts.{number}" for number in calibrated.missed()],
        )

    def _rotated(self, hidden: torch.Tensor) -> torch.Tensor:
        if self._rotation is None:
            return hidden
        return torch.matmul(hidden.float(), self._rotation).to(hidden.dtype)

    def _figures(self, **more: Any) -> Figures:
        return {"dataset": self._dataset, **more}

    # -- the end -----------------------------------------------------------------------------------

    def logits(self, reference: Sequence[nn.Module], quantized: Sequence[nn.Module]) -> Figures:
        """Compare the models' predictions, a few tokens at a time.

        Args:
            reference, quantized: final norm and lm_head, as they were read and as they are written.
        """
        rows = self._set.predicted()
        found: list[tuple[torch.Tensor, ...]] = []
        for part in chunks(len(rows), quantized[1].weight.shape[0]):
            some = rows[part]
            logits = [
                head(norm(self._paths[path][some]))
                for path, (norm, head) in ((_REFERENCE, reference), (_QUANTIZED, quantized))
            ]
            found.append(divergence(logits[0], logits[1], self._set.ids[some + 1]))
        kl, bf16, ours, same = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
        counts = [length - 1 for length in self._set.lengths]
        prompts = zip(
            self._set.ids.cpu().split(self._set.lengths),
            *(values.split(counts) for values in (bf16, ours, kl)),
            strict=True,
        )
        return self._figures(
            prompts=[vars(_prompt(*each)) for each in prompts],
            top1=float(same.double().mean()),
        )


def _prompt(
    ids: torch.Tensor, bf16: torch.Tensor, quantized: torch.Tensor, kl: torch.Tensor
) -> PromptQuality:
    return PromptQuality(
        tokens=tuple(ids.tolist()),
        bf16=tuple(-short(-value) for value in bf16.tolist()),  # a log-probability is never above 0
        quantized=tuple(-short(-value) for value in quantized.tolist()),
        kl=tuple(short(value) for value in kl.tolist()),
    )
