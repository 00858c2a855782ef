"""What a page consists of, whatever it becomes: HTML (`html.py`) or Markdown (`markdown.py`).

Texts are plain: each renderer escapes them, in one place.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """A name, a digest or a command within a sentence."""

    text: str


@dataclass(frozen=True)
class Strong:
    """What the eye has to find."""

    text: str


@dataclass(frozen=True)
class Link:
    """A link to another page of the same store.

    Attributes:
        to: a relative address.
    """

    text: str
    to: str


@dataclass(frozen=True)
class Verbatim:
    """What somebody else wrote: its line breaks and spaces stay."""

    text: str


Inline = str | Code | Strong | Link | Verbatim
Text = Inline | tuple[Inline, ...]


def inlines(text: Text) -> tuple[Inline, ...]:
    """The parts of a text, in order."""
    return text if isinstance(text, tuple) else (text,)


@dataclass(frozen=True)
class Paragraph:
    """A sentence or more."""

    text: Text


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        numeric: numbers, aligned to the right.
    """

    title: str
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """A table. The first cell of a row says what the row is about.

    Attributes:
        caption: what the table shows.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Text, ...], ...]


@dataclass(frozen=True)
class Listing:
    """Lines for a shell or a file, as they are."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: tuple[Text, ...]


@dataclass(frozen=True)
class Figure:
    """A plot. All that it shows is in a table as well.

    Attributes:
        svg: the drawing, made by `plots.py`.
        alternative: what it shows, for those who do not see it.
    """

    svg: str
    alternative: str
    caption: str


@dataclass(frozen=True)
class Metric:
    """A figure that is looked at first.

    Attributes:
        note: what it means, or what it is compared with.
    """

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Metrics:
    """The figures at the top."""

    items: tuple[Metric, ...]


@dataclass(frozen=True)
class Details:
    """What only some readers want: folded on a screen, open on paper."""

    summary: str
    blocks: tuple[Block, ...]


Block = Paragraph | Table | Listing | Bullets | Figure | Metrics | Details


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        anchor: its name in addresses.
    """

    anchor: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        subject: what it is about: a name.
        verdict: the first sentence.
        grave: whether the verdict is bad news.
        top: what comes before the first section.
    """

    title: str
    subject: str
    verdict: str
    grave: bool
    top: tuple[Block, ...]
    sections: tuple[Section, ...]
