"""The pages: what a hostile text becomes, what is said first, sizes, plots with and without matplotlib."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from helpers.golden import NAME
from helpers.reports import SECOND, reported_store

from quantpipe.report import html, markdown, plots
from quantpipe.report.blocks import (
    Code,
    Column,
    Link,
    Listing,
    Page,
    Paragraph,
    Section,
    Strong,
    Table,
    Verbatim,
)
from quantpipe.report.document import GenerationReport, Remark
from quantpipe.report.gather import report_of
from quantpipe.report.page import page_of, verdict

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style></title></pre><b>",
    "[a](javascript:alert(1)) ![x](http://example.com/x.png) <http://example.com> https://example.com",
    "`code` ```\n# heading\n- list\n1. one\n> quote",
    "a | b | c",
    "&lt;b&gt; &amp; &#60;",
    "\x1b[31mred\x07 \u202eright to left",
    "# heading",
    "--- ",
    "<!-- comment -->",
)

TABLE_TAGS = {"table", "caption", "thead", "tbody", "tr", "th", "td"}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> GenerationReport:
    store, recipe = reported_store(tmp_path_factory.mktemp("reported"))
    return report_of(store, NAME, SECOND, recipe)


def hostile_page(text: str) -> Page:
    table = Table(text, (Column(text), Column(text)), ((text, Code(text)), (Strong(text), Verbatim(text))))
    blocks = (Paragraph((text, Code(text), Link(text, "x"))), table, Listing(text))
    return Page(text, text, text, True, (), (Section("a", text, blocks),))


class Elements(HTMLParser):
    """The elements with their attributes, and all text."""

    def __init__(self, document: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")


@pytest.mark.parametrize("text", HOSTILE)
def test_in_html_every_text_stays_text(text: str) -> None:
    harmless, hostile = Elements(html.render(hostile_page("x"))), Elements(html.render(hostile_page(text)))
    assert [tag for tag, _ in hostile.found] == [tag for tag, _ in harmless.found]
    assert [set(attributes) for _, attributes in hostile.found] == [
        set(attributes) for _, attributes in harmless.found
    ]
    assert "\x1b" not in hostile.text and "\u202e" not in hostile.text
    if text.isprintable():
        assert text in hostile.text


@pytest.mark.parametrize("text", HOSTILE)
def test_in_markdown_every_text_stays_text(text: str) -> None:
    parser = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")

    def structure(word: str) -> list[str]:
        tokens: list[Any] = parser.parse(markdown.render(hostile_page(word)))
        inner = [child.type for token in tokens for child in token.children or ()]
        return [token.type for token in tokens] + [kind for kind in inner if kind != "text"]

    assert structure(text) == structure("x")


def test_what_decides_comes_first(report: GenerationReport) -> None:
    text = Elements(html.render(page_of(report))).text
    assert text.index("Look at 3 points before serving it") < text.index("0.0187") < text.index("Look at: ")
    assert text.index("Look at: ") < text.index("vllm serve") < text.index("Transcript")


def test_a_problem_is_the_first_sentence(report: GenerationReport) -> None:
    bad = replace(report, remarks=(Remark("problem", "It is broken."), *report.remarks))
    assert verdict(bad) == "Do not serve it. It is broken."
    assert 'class="verdict grave"' in html.render(page_of(bad))
    assert "Nothing found speaks against" in verdict(replace(report, remarks=()))


def test_the_page_is_accessible_and_self_contained(report: GenerationReport) -> None:
    document = html.render(page_of(report))
    elements = Elements(document)
    tags = [tag for tag, _ in elements.found]
    assert len(document.encode()) < 100_000
    assert not {"script", "iframe", "object", "embed", "base", "form"} & set(tags)
    for tag, attributes in elements.found:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            target = attributes.get(name) or "#"
            assert target.startswith("#") or target == "data:,", (tag, target)
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
        if tag == "svg":
            assert attributes["role"] == "img" and len(attributes["aria-label"] or "") > 40
    assert tags.count("table") == tags.count("caption") > 5
    anchors = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(anchors) == len(set(anchors))
    links = {(a["href"] or "").removeprefix("#") for tag, a in elements.found if tag == "a"}
    assert links <= set(anchors)


def test_markdown_says_the_same_without_plots(report: GenerationReport) -> None:
    text = markdown.render(page_of(report))
    for said in ("0.0187", "W8A8_DYNAMIC", "vllm serve", "18 of 18", "26.2.0", "ea3ca92ca8ba"):
        assert said in text
    assert "<svg" not in text


def test_without_matplotlib_the_page_has_tables_only(
    report: GenerationReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "available", lambda: False)
    document = html.render(page_of(report))
    assert "<svg" not in document and "Error by layer as a table" in document
    assert plots.MISSING in Elements(document).text


def test_plots_take_their_colours_from_the_page(report: GenerationReport) -> None:
    pytest.importorskip("matplotlib", reason="plots need the extra `report`")
    document = html.render(page_of(report))
    [drawing] = re.findall(r"<svg.*?</svg>", document, re.DOTALL)
    assert "var(--first)" in drawing and "currentColor" in drawing and "stroke-dasharray" in drawing
    assert not re.findall(r"#0a0b0\d", drawing)
    assert "http" not in drawing


def test_a_plot_is_the_same_every_time(report: GenerationReport, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need the extra `report`")
    assert html.render(page_of(report)) == html.render(page_of(report))
