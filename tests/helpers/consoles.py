"""A console that a test reads."""

from __future__ import annotations

import io

from quantpipe.console import Console


def said(console: Console) -> str:
    """What a console with a StringIO has shown."""
    stream = console._stream.target
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()
