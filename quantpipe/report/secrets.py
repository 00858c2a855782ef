"""What a report never shows: tokens and signed addresses, wherever they are in its values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantpipe.redact import redact


def redacted(value: Any) -> Any:
    """A JSON value in which no text holds a known secret."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redacted(item) for key, item in value.items()}
    return [redacted(item) for item in value] if isinstance(value, list | tuple) else value
