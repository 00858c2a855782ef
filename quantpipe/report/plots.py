"""Plots as SVG, by matplotlib: the extra `report`. Without it there are none, and the tables say the same.

Colours are variables of the page's style sheet, so that a plot follows its light or dark scheme. Series
differ in marker, dash and hatch as well: paper without colours is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

from quantpipe.report.blocks import Figure
from quantpipe.report.document import KindSize, Trend
from quantpipe.report.svg import FAINT, FIRST, INK, SECOND, page_svg
from quantpipe.report.wording import KINDS
from quantpipe.store.quality import LayerQuality
from quantpipe.text import human_bytes

MISSING = "Plots need matplotlib: install quantpipe with the extra `report`."

_WIDTH, _HEIGHT = 7.4, 2.7
"""Inches, of 72 points: 533 of the page's 720 pixels."""

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "quantpipe",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.4,
    "xtick.color": INK,
    "ytick.color": INK,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
}


@cache
def available() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def layers(quality: Sequence[LayerQuality]) -> Figure | None:
    """SQNR by layer, on the same input and on its own path."""
    numbers = [layer.index for layer in quality]
    own, path = [layer.sqnr for layer in quality], [layer.path_sqnr for layer in quality]

    def draw(axes: Any) -> None:
        size = 4 if len(numbers) <= 40 else 2
        axes.plot(numbers, own, color=FIRST, marker="o", markersize=size, label="same input")
        axes.plot(numbers, path, color=SECOND, marker="s", markersize=size, ls="--", label="own path")
        axes.set_xlabel("Layer")
        axes.set_ylabel("SQNR (dB)")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(loc="best")

    return _figure(
        "layers",
        draw,
        f"Line plot of SQNR by layer, {len(numbers)} layers: on the same input from {min(own):.1f} to "
        f"{max(own):.1f} dB, on its own path from {path[0]:.1f} dB in the first layer to {path[-1]:.1f} dB "
        "in the last one. The values are in the table below.",
        "Error by layer: higher is better.",
    )


def sizes(kinds: Sequence[KindSize]) -> Figure | None:
    """Bytes by kind of module, before and after."""
    if not kinds:
        return None
    names = [KINDS.get(kind.kind, kind.kind) for kind in kinds]
    before, after = [kind.source_bytes for kind in kinds], [kind.bytes for kind in kinds]
    unit, scale = _unit(max([*before, *after]))

    def draw(axes: Any) -> None:
        rows = range(len(kinds))
        axes.barh(
            [row - 0.2 for row in rows],
            [size / scale for size in before],
            height=0.38,
            facecolor="none",
            edgecolor=SECOND,
            hatch="////",
            label="before (BF16)",
        )
        axes.barh(
            [row + 0.2 for row in rows],
            [size / scale for size in after],
            height=0.38,
            color=FIRST,
            label="after",
        )
        axes.set_yticks(list(rows), names)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(unit)
        axes.legend(loc="best")

    said = "; ".join(
        f"{name} {human_bytes(old)} to {human_bytes(new)}"
        for name, old, new in zip(names, before, after, strict=True)
    )
    return _figure(
        "sizes",
        draw,
        f"Bar plot of bytes before and after by kind of module: {said}.",
        "Size by kind of module, before and after.",
    )


def trend(name: str, generations: Sequence[Trend]) -> Figure | None:
    """KL divergence from generation to generation, if at least two were measured."""
    measured = [(g.digest[:6], g.quality["kl_mean"]) for g in generations if g.quality is not None]
    if len(measured) < 2:
        return None
    labels, values = zip(*measured, strict=True)

    def draw(axes: Any) -> None:
        axes.plot(range(len(values)), values, color=FIRST, marker="o")
        axes.set_xticks(range(len(values)), labels)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("Mean KL (nats)")

    first, last = values[0], values[-1]
    return _figure(
        f"trend-{name}",
        draw,
        f"Line plot of the mean KL divergence of {len(values)} generations, from {first:.4f} to "
        f"{last:.4f} nats. The values are in the table below.",
        "Mean KL divergence by generation: lower is better.",
    )


def _figure(name: str, draw: Callable[[Any], None], alternative: str, caption: str) -> Figure | None:
    if not available():
        return None
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    with mpl.rc_context(_STYLE):
        canvas = Canvas(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        draw(canvas.add_subplot())
        return Figure(page_svg(canvas, name, alternative), alternative, caption)


def _unit(largest: int) -> tuple[str, int]:
    names = ("bytes", "KiB", "MiB", "GiB", "TiB")
    power = 0
    while largest >= 1024 ** (power + 1) and power < len(names) - 1:
        power += 1
    return names[power], 1024**power
