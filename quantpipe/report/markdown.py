"""A page as Markdown (CommonMark with tables): plots are left out, since tables say the same.

`escaped` is the only place in which text becomes Markdown.
"""

from __future__ import annotations

import re

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

_SPECIAL = re.compile(r"([\\`*_\[\]|~#$])")
"""What Markdown, GitHub's and Hugging Face's extensions included, takes for markup anywhere in a line."""

_FIRST = re.compile(r"^(\d*)([.)](?= |$)|(?<!\d)[-+=])")
"""What begins a list, a rule or a heading at the begin of a line: `1. `, `2) `, `-`, `===`."""


def escaped(text: str) -> str:
    """Any text as Markdown, on one line; HTML in it stays text."""
    line = " ".join(printable(text).splitlines()).replace("&", "&amp;").replace("<", "&lt;")
    line = _SPECIAL.sub(r"\\\1", line.replace(">", "&gt;"))
    return _FIRST.sub(r"\1\\\2", line)


def code(text: str) -> str:
    """A code span, on one line, fenced by more backticks than the text has in a row."""
    line = " ".join(printable(text).splitlines())
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    padded = f" {line} " if line.startswith("`") or line.endswith("`") else line
    # In a table a pipe ends the cell even within a code span, unless it is escaped.
    return f"{fence}{padded}{fence}".replace("|", "\\|") if line else ""


def listing(text: str, language: str = "") -> str:
    """A fenced block."""
    content = printable(text)
    fence = "`" * max(3, max(map(len, re.findall("`+", content)), default=0) + 1)
    return f"{fence}{language}\n{content}\n{fence}"


def render(page: Page) -> str:
    """The whole document."""
    parts = [f"# {escaped(page.subject)}", escaped(page.title), _strong(page.verdict)]
    parts += [part for block in page.top for part in block_parts(block)]
    parts += [part for section in page.sections for part in section_parts(section)]
    return "\n\n".join(parts) + "\n"


def section_parts(section: Section) -> list[str]:
    """The paragraphs of a section, its heading first."""
    inner = [part for block in section.blocks for part in block_parts(block)]
    return [f"## {escaped(section.title)}", *inner]


def block_parts(block: Block) -> list[str]:
    """The paragraphs of a block."""
    match block:
        case Paragraph():
            return [_text(block.text)]
        case Table():
            return _table(block)
        case Listing():
            return [listing(block.text)]
        case Bullets():
            return ["\n".join(f"- {_text(item)}" for item in block.items)]
        case Figure():
            return []
        case Metrics():
            return [
                "\n".join(
                    f"- {escaped(m.label)}: {_strong(m.value)} ({escaped(m.note)})" for m in block.items
                )
            ]
        case Details():
            return [part for inner in block.blocks for part in block_parts(inner)]


def _strong(text: str) -> str:
    """Spaces at its ends would make the asterisks text."""
    inner = text.strip()
    before, _, after = text.partition(inner)
    return f"{before}**{escaped(inner)}**{after}" if inner else text


def _table(table: Table) -> list[str]:
    heads = " | ".join(escaped(column.title) for column in table.columns)
    rule = " | ".join("---:" if column.numeric else "---" for column in table.columns)
    rows = [" | ".join(_text(cell) for cell in row) for row in table.rows]
    return [escaped(table.caption) + ":", "\n".join(f"| {row} |" for row in (heads, rule, *rows))]


def _text(text: Text) -> str:
    return "".join(map(_inline, inlines(text)))


def _inline(part: Inline) -> str:
    match part:
        case Code() | Verbatim():
            return code(part.text)
        case Strong():
            return _strong(part.text)
        case Link():
            return f"[{escaped(part.text)}](<{part.to}>)"
        case _:
            return escaped(part)
