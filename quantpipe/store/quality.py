"""How much of the BF16 model's quality the quantized one keeps: the shape of quality.json.

The quantize worker writes the file, the receipt of stage quantize holds its summary, reports and gates read
both. Standard library only: the worker imports it.

Two models are compared on a held-out set of prompts: the *reference*, which is the model as published by its
makers (BF16, neither rotated nor smoothed), and the *quantized* one in the arithmetic of the server. Each
token counts equally, also where a few of them have activations a thousand times as large as all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from quantpipe.checkpoint.strict_json import load_object
from quantpipe.errors import VerificationError

QUALITY = "quality.json"
"""In the run's directory, beside its staging directory."""

FORMAT = 1

LARGEST_DB, LARGEST = 200.0, 1e6
"""No figure is infinite: two equal tensors have an SQNR of LARGEST_DB; what is not a number has one of
-LARGEST_DB, a cosine of -1, and a KL divergence or perplexity of LARGEST."""


@dataclass(frozen=True)
class LayerQuality:
    """The output of a decoder layer (hidden states, rotation undone), compared with the reference's.

    Attributes:
        index: of the layer, from 0.
        sqnr: signal-to-quantization-noise ratio in dB: of the mean over tokens of |error|^2 / |reference|^2,
            where the quantized layer gets the reference's input: what this layer adds.
        cosine: mean cosine similarity over the tokens, on the same input.
        path_sqnr: the same ratio, where the layer gets the output of the quantized layers before it: what has
            accumulated.
        path_cosine: mean cosine similarity on that path.
    """

    index: int
    sqnr: float
    cosine: float
    path_sqnr: float
    path_cosine: float


@dataclass(frozen=True)
class LinearQuality:
    """A quantized linear, compared with the float one (rotated and smoothed) that it was made of.

    Attributes:
        name: of the module.
        type: as in the description: `W8A8`, `W8A8_DYNAMIC`.
        sqnr: dB, of its output on the same input; None where no token of the held-out set reached it in the
            quantized model.
        weight_error: |dequantized - float| / |float| of the weight.
        saturated: share of its input values that a static scale clips; 0 for scales per token.
        tokens: of the held-out set, that the reference sends to it.
        calibration_tokens: of the calibration set, that reached it.
    """

    name: str
    type: str
    sqnr: float | None
    weight_error: float
    saturated: float
    tokens: int
    calibration_tokens: int


@dataclass(frozen=True)
class PromptQuality:
    """A prompt of the held-out set. The three lists belong to `tokens[1:]`: the first one is not predicted.

    Attributes:
        tokens: ids.
        bf16: log-probability of each token by the reference.
        quantized: the same by the quantized model.
        kl: Kullback-Leibler divergence of the two distributions in nats, reference to quantized.
    """

    tokens: tuple[int, ...]
    bf16: tuple[float, ...]
    quantized: tuple[float, ...]
    kl: tuple[float, ...]


@dataclass(frozen=True)
class Quality:
    """The figures that decide whether to serve the checkpoint.

    Attributes:
        kl_mean: mean over the tokens of the divergence of the next-token distributions, in nats, reference to
            quantized.
        kl_p99: its 99th percentile.
        top1: share of tokens for which both models have the same most probable next token.
        perplexity_bf16: of the reference.
        perplexity_quantized: of the quantized model.
        tokens: that were predicted: all but the first one of each prompt.
        dataset: digest of the held-out prompts.
        layers: one for each decoder layer.
        worst_linears: those with the lowest SQNR, the worst one first.
        unreached_experts: names of experts that no token of the calibration set reached.
        file: where all figures are: a path relative to the store; empty in that file itself.
    """

    kl_mean: float
    kl_p99: float
    top1: float
    perplexity_bf16: float
    perplexity_quantized: float
    tokens: int
    dataset: str
    layers: tuple[LayerQuality, ...]
    worst_linears: tuple[LinearQuality, ...]
    unreached_experts: tuple[str, ...]
    file: str = ""

    @property
    def worst_layer(self) -> LayerQuality | None:
        """The one with the lowest SQNR on the same input; None for a model without layers."""
        return min(self.layers, key=lambda layer: layer.sqnr, default=None)

    @property
    def perplexity_ratio(self) -> float:
        """Quantized to BF16: above 1 where quantizing has made the model worse."""
        return self.perplexity_quantized / self.perplexity_bf16


class Judged(NamedTuple):
    """A figure compared with its gate. All gates are one-sided: no checkpoint is too good.

    Attributes:
        key: of the gate, in the recipe's section `quality`.
        limit: what the recipe asks for.
        value: of the checkpoint.
        passed: whether it is within the limit.
    """

    key: str
    limit: float
    value: float
    passed: bool


def judge(limits: Mapping[str, Any], quality: Quality) -> Iterator[Judged]:
    """Compare the figures with the gates that are set.

    Args:
        limits: by key; None, or no such key, for a gate that is off.
    """
    worst = quality.worst_layer
    values = {
        "max_kl": quality.kl_mean,
        "min_top1": quality.top1,
        "max_perplexity_ratio": quality.perplexity_ratio,
        "min_layer_sqnr": None if worst is None else worst.sqnr,
    }
    for key, value in values.items():
        limit = limits.get(key)
        if limit is not None and value is not None:
            yield Judged(key, limit, value, value <= limit if key.startswith("max_") else value >= limit)


@dataclass(frozen=True)
class QualityReport:
    """The content of quality.json.

    Attributes:
        summary: the figures of the receipt.
        linears: all quantized linears, in the order of the layers.
        prompts: the held-out prompts with what both models say about them.
        format: of the file.
    """

    summary: Quality
    linears: tuple[LinearQuality, ...]
    prompts: tuple[PromptQuality, ...]
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> QualityReport:
        """Read what `to_json` made; keys that a later version added are ignored.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        summary = dict(value["summary"])
        summary["layers"] = _all_of(LayerQuality, summary["layers"])
        summary["worst_linears"] = _all_of(LinearQuality, summary["worst_linears"])
        summary["unreached_experts"] = tuple(summary["unreached_experts"])
        prompts = ({key: tuple(item) for key, item in prompt.items()} for prompt in value["prompts"])
        return cls(
            Quality(**_known(Quality, summary)),
            _all_of(LinearQuality, value["linears"]),
            tuple(PromptQuality(**_known(PromptQuality, prompt)) for prompt in prompts),
            int(value["format"]),
        )


def read_quality(path: Path) -> QualityReport:
    """Read quality.json.

    Raises:
        VerificationError: it is missing, or something else.
    """
    try:
        return QualityReport.from_json(load_object(path))
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise VerificationError(
            f"not a quality report: {error!r}", where=str(path), hint="`--force quantize` measures again"
        ) from error


def _all_of(kind: Any, values: Any) -> tuple[Any, ...]:
    return tuple(kind(**_known(kind, value)) for value in values)


def _known(kind: Any, value: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    return {key: item for key, item in value.items() if key in names}
