"""The section about quality: how far the quantized model is from BF16, and where the distance comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from quantpipe.report import plots
from quantpipe.report.blocks import Block, Code, Column, Details, Paragraph, Section, Strong, Table
from quantpipe.report.document import ExpertCoverage, Gate, GenerationReport
from quantpipe.report.wording import decibels, number, percent, perplexity
from quantpipe.store.quality import LayerQuality, Quality

_MOST_NAMES = 40
"""Experts that are named one by one; the JSON has all of them."""


def quality_section(report: GenerationReport) -> Section:
    """Figures, error by layer, the worst linears, and the experts that calibration did not reach."""
    if report.quality is None:
        text = "Not measured: switched off, or made by a version of quantpipe that does not measure it."
        return Section("quality", "Quality", (Paragraph(text),))
    quality = report.quality
    blocks: list[Block] = [
        Paragraph(
            "The quantized model, in the arithmetic of the server, and the BF16 model read the same "
            f"held-out prompts: {number(quality.tokens, 'predicted token')}."
        ),
        figures_table(quality),
        *_gates(report.gates),
        *_layers(quality.layers),
        *_worst(quality),
        *_experts(report.experts, quality),
    ]
    return Section("quality", "Quality", tuple(blocks))


def figures_table(quality: Quality) -> Table:
    """The figures of the whole model."""
    rows = (
        ("Mean KL divergence", f"{quality.kl_mean:.4f}", "nats, BF16 to quantized; 0 means equal"),
        ("99th percentile of it", f"{quality.kl_p99:.4f}", "one token in a hundred differs by more"),
        ("Same most probable token", percent(quality.top1), "of all tokens"),
        ("Perplexity of BF16", perplexity(quality.perplexity_bf16), "lower is better"),
        (
            "Perplexity, quantized",
            perplexity(quality.perplexity_quantized),
            f"{quality.perplexity_ratio:.4f} times that of BF16",
        ),
    )
    columns = (Column("Figure"), Column("Value", numeric=True), Column("Meaning"))
    return Table("Quantized compared with BF16", columns, rows)


def _gates(gates: Sequence[Gate]) -> Iterator[Block]:
    if not gates:
        return
    columns = (Column("Gate"), Column("Limit", numeric=True), Column("Value", numeric=True), Column("Result"))
    rows = tuple(
        (
            Code(gate.key),
            f"{gate.limit:g}",
            f"{gate.value:.4g}",
            "passed" if gate.passed else Strong("not passed"),
        )
        for gate in gates
    )
    yield Table("Quality gates of the recipe", columns, rows)


def _layers(layers: Sequence[LayerQuality]) -> Iterator[Block]:
    if not layers:
        return
    worst = min(layers, key=lambda layer: layer.sqnr)
    last = layers[-1]
    yield Paragraph(
        "Signal-to-quantization-noise ratio (SQNR) of each decoder layer's output, in dB: higher is better, "
        "and 10 dB less is ten times the noise. On the same input: what the layer itself adds; the worst is "
        f"layer {worst.index} with {decibels(worst.sqnr)} dB. On its own path: what has accumulated since "
        f"the first layer; {decibels(last.path_sqnr)} dB are left after the last one."
    )
    yield plots.layers(layers) or Paragraph(plots.MISSING)
    columns = (
        Column("Layer", numeric=True),
        Column("SQNR, same input (dB)", numeric=True),
        Column("Cosine, same input", numeric=True),
        Column("SQNR, own path (dB)", numeric=True),
        Column("Cosine, own path", numeric=True),
    )
    rows = tuple(
        (
            str(layer.index),
            decibels(layer.sqnr),
            f"{layer.cosine:.5f}",
            decibels(layer.path_sqnr),
            f"{layer.path_cosine:.5f}",
        )
        for layer in layers
    )
    table = Table("Error by layer", columns, rows)
    yield Details(f"Error by layer as a table ({number(len(layers), 'layer')})", (table,))


def _worst(quality: Quality) -> Iterator[Block]:
    if not quality.worst_linears:
        return
    columns = (
        Column("Linear"),
        Column("Type"),
        Column("SQNR of its output (dB)", numeric=True),
        Column("Weight error", numeric=True),
        Column("Saturated inputs", numeric=True),
        Column("Tokens: held-out", numeric=True),
        Column("Tokens: calibration", numeric=True),
    )
    rows = tuple(
        (
            Code(linear.name),
            Code(linear.type),
            decibels(linear.sqnr),
            percent(linear.weight_error),
            percent(linear.saturated),
            f"{linear.tokens:,}",
            f"{linear.calibration_tokens:,}",
        )
        for linear in quality.worst_linears
    )
    yield Table("The linears with the lowest SQNR, the worst one first", columns, rows)


def _experts(experts: Sequence[ExpertCoverage], quality: Quality) -> Iterator[Block]:
    unreached = quality.unreached_experts
    if experts and not unreached:
        yield Paragraph("Calibration reached every expert.")
    if unreached:
        names = ", ".join(unreached[:_MOST_NAMES])
        more = f" and {len(unreached) - _MOST_NAMES:,} more" if len(unreached) > _MOST_NAMES else ""
        yield Paragraph(
            (f"Calibration did not reach {number(len(unreached), 'expert')}: ", Code(names), f"{more}.")
        )
    if experts:
        columns = (
            Column("Layer", numeric=True),
            Column("Experts", numeric=True),
            Column("Unreached", numeric=True),
            Column("Fewest tokens", numeric=True),
            Column("Median tokens", numeric=True),
        )
        rows = tuple(
            (str(e.layer), str(e.experts), str(e.unreached), f"{e.fewest:,}", f"{e.median:,}")
            for e in experts
        )
        yield Details(
            "Calibration tokens by layer and expert",
            (Table("Calibration tokens of the experts", columns, rows),),
        )
