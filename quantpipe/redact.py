"""Keep secrets out of everything that is printed or stored."""

from __future__ import annotations

import os
import re

_SECRET_VARIABLES = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "MODELSCOPE_API_TOKEN",
)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s\"']+@")
_QUERY = re.compile(r"(https?://[^\s\"'<>?]+)\?[^\s\"'<>]+")
_BEARER = re.compile(r"(?i)(bearer\s+)[\w.~+/=-]+")
_TOKENS = re.compile(r"\bhf_[A-Za-z0-9]{8,}\b")
_MASK = "***"


def redact(text: str) -> str:
    """`text` without tokens, passwords in URLs, and query strings (which sign URLs)."""
    for name in _SECRET_VARIABLES:
        value = os.environ.get(name)
        if value and len(value) >= 4:
            text = text.replace(value, _MASK)
    text = _CREDENTIALS.sub(f"{_MASK}@", text)
    text = _QUERY.sub(rf"\1?{_MASK}", text)
    text = _BEARER.sub(rf"\1{_MASK}", text)
    return _TOKENS.sub(_MASK, text)
