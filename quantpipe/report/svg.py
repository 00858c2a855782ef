"""From matplotlib's SVG to one that is a part of a page: its colours, its fonts, its place among others."""

from __future__ import annotations

import io
import re
from typing import Any
from xml.etree import ElementTree

INK, FAINT, FIRST, SECOND = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
"""Colours to draw with: text, axes, and two series. The style sheet says what they are."""

_VARIABLES = {
    INK: "currentColor",
    FAINT: "var(--faint)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
}
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_FONT = re.compile(r"\s*font: [^;]+;?")
_NUMBER = re.compile(r"-?\d+\.\d{3,}")


def page_svg(canvas: Any, name: str, alternative: str) -> str:
    """An inline SVG of a matplotlib figure.

    Args:
        name: unique in the page: ids begin with it.
        alternative: read aloud instead of the drawing.
    """
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    # Our own drawing, made a moment ago: no entities to be afraid of.
    root = ElementTree.fromstring(buffer.getvalue())
    _clean(root, name)
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "class": "plot",
        "role": "img",
        "aria-label": alternative,
    }
    return ElementTree.tostring(root, encoding="unicode")


def _clean(element: ElementTree.Element, name: str) -> None:
    """Local names only (HTML knows no namespaces), ids of the page's own, no metadata, short numbers."""
    for child in list(element):
        if child.tag.rpartition("}")[2] in ("metadata", "style"):
            element.remove(child)
        else:
            _clean(child, name)
    element.tag = element.tag.rpartition("}")[2]
    element.text = element.text and element.text.strip()
    element.tail = None
    element.attrib = {key.rpartition("}")[2]: _value(key, value, name) for key, value in element.items()}
    if element.tag == "g":  # axes_1, line2d_3: nothing refers to them
        element.attrib.pop("id", None)


def _value(key: str, value: str, name: str) -> str:
    local = key.rpartition("}")[2]
    if local == "id":
        return f"{name}-{value}"
    if local == "href":
        return f"#{name}-{value[1:]}"
    value = _REFERENCE.sub(rf"url(#{name}-\1)", value)
    for colour, variable in _VARIABLES.items():
        value = value.replace(colour, variable)
    if local == "style":
        size = re.search(r"font: (?:\w+ )?([\d.]+)px", value)
        value = _FONT.sub("", value)
        value = f"font-size: {size[1]}px; {value}" if size else value
    return _NUMBER.sub(lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), value)
