"""A page as HTML: one file, without scripts, and without anything from a network.

`element` is the only place in which text becomes HTML, and it escapes everything that is not HTML already.
"""

from __future__ import annotations

import html
from importlib.resources import files

from quantpipe.report.blocks import (
    Block,
    Bullets,
    Code,
    Details,
    Figure,
    Inline,
    Link,
    Listing,
    Metrics,
    Page,
    Paragraph,
    Section,
    Strong,
    Table,
    Text,
    Verbatim,
    inlines,
)
from quantpipe.text import printable

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Content-Security-Policy: whatever a text might contain, the browser loads and runs nothing."""


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def escaped(text: str) -> Html:
    """Any text as HTML; control characters become visible."""
    return text if isinstance(text, Html) else Html(html.escape(printable(text), quote=True))


def element(name: str, *content: str, **attributes: str) -> Html:
    """An element with escaped content and attributes; `class_` stands for `class`, `_` for `-`."""
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"' for key, value in attributes.items()
    )
    return Html(f"<{name}{pairs}>{''.join(escaped(part) for part in content)}</{name}>")


def render(page: Page) -> str:
    """The whole document."""
    style = files("quantpipe.assets").joinpath("report.css").read_text("utf-8")
    head = (
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark">'),
        Html('<link rel="icon" href="data:,">'),
        element("title", page.title),
        Html(f"<style>{style}</style>"),
    )
    body = (
        element(
            "header",
            element("p", page.title, class_="kicker"),
            element("h1", page.subject),
            element("p", page.verdict, class_="verdict grave" if page.grave else "verdict"),
        ),
        _navigation(page),
        element("main", *map(_block, page.top), *map(_section, page.sections), id="content"),
        element("footer", element("p", "Made by quantpipe. This page loads nothing and runs nothing.")),
    )
    document = element("html", element("head", *head), element("body", *body), lang="en")
    return f"<!DOCTYPE html>\n{document}\n"


def _navigation(page: Page) -> Html:
    links = [
        element("li", element("a", section.title, href=f"#{section.anchor}")) for section in page.sections
    ]
    return element("nav", element("ul", *links), aria_label="Sections")


def _section(section: Section) -> Html:
    heading = element("h2", section.title, id=f"{section.anchor}-title")
    return element(
        "section",
        heading,
        *map(_block, section.blocks),
        id=section.anchor,
        aria_labelledby=f"{section.anchor}-title",
    )


def _block(block: Block) -> Html:
    match block:
        case Paragraph():
            return element("p", _text(block.text))
        case Table():
            return _table(block)
        case Listing():
            return element("pre", element("code", block.text), tabindex="0")
        case Bullets():
            return element("ul", *(element("li", _text(item)) for item in block.items), class_="remarks")
        case Figure():
            return element("figure", Html(block.svg), element("figcaption", block.caption))
        case Metrics():
            return _metrics(block)
        case Details():
            return element("details", element("summary", block.summary), *map(_block, block.blocks))


def _table(table: Table) -> Html:
    heads = [
        element("th", column.title, scope="col", class_="number" if column.numeric else "text")
        for column in table.columns
    ]
    rows = [_row(table, row) for row in table.rows]
    inner = element(
        "table",
        element("caption", table.caption),
        element("thead", element("tr", *heads)),
        element("tbody", *rows),
    )
    # Scrolls by itself on a narrow screen; reachable by keyboard for that.
    return element("div", inner, class_="scroll", tabindex="0", role="region", aria_label=table.caption)


def _row(table: Table, row: tuple[Text, ...]) -> Html:
    first, *others = row
    cells = [
        element("td", _text(cell), class_="number" if column.numeric else "text")
        for column, cell in zip(table.columns[1:], others, strict=True)
    ]
    numeric = "number" if table.columns[0].numeric else "text"
    return element("tr", element("th", _text(first), scope="row", class_=numeric), *cells)


def _metrics(metrics: Metrics) -> Html:
    items = [
        element(
            "div",
            element("dt", metric.label),
            element("dd", metric.value, class_="value"),
            element("dd", metric.note, class_="meaning"),
        )
        for metric in metrics.items
    ]
    return element("dl", *items, class_="metrics")


def _text(text: Text) -> Html:
    return Html("".join(map(_inline, inlines(text))))


def _inline(part: Inline) -> Html:
    match part:
        case Code():
            return element("code", part.text)
        case Strong():
            return element("strong", part.text)
        case Link():
            return element("a", part.text, href=part.to)
        case Verbatim():
            return element("span", part.text, class_="verbatim")
        case _:
            return escaped(part)
