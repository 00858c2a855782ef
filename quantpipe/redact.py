"""Keep secrets out of everything that is printed or stored.

Known secrets (the environment's tokens, those that a client read from its own files, those of a recipe) are
masked wherever they occur; shapes that only secrets have (bearer headers, URL credentials, signatures) as
well. Where names are known (variables, options, keys of JSON), values are masked by name.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

_SECRET_VARIABLES = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "MODELSCOPE_API_TOKEN",
    "MODELSCOPE_SDK_TOKEN",
)
_PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
_SHORTEST = 4
_MASK = "***"

_CREDENTIALS = re.compile(r"(?<=://)[^/\s\"'<>]+@")
_QUERY = re.compile(r"(https?://[^\s\"'<>?]+)\?[^\s\"'<>]+")
_AUTHORIZATION = re.compile(
    r"(?i)((?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?(?:basic|bearer|token)?\s*)[^\s\"',}]+"
)
_BEARER = re.compile(r"(?i)(bearer\s+)[\w.~+/=-]{8,}")
_COOKIE = re.compile(r"(?i)(m_session_id[\"']?\s*[=:]\s*[\"']?)[^\s;\"',}]+")
# What signs an address at S3, CloudFront, Azure, OSS and Google, also in an address without host.
_SIGNATURE = re.compile(
    r"(?i)((?:^|[?&\s])(?:x-(?:amz|oss|goog)-[\w-]+|signature|sig|se|sp|policy|key-pair-id|expires|"
    r"ossaccesskeyid|security-token|access[_-]token|token|x-xet-[\w-]+)=)[^&\s\"'<>)]+"
)
_TOKENS = re.compile(r"\b(?:hf_[A-Za-z0-9]{8,}|ms-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\b")

_SECRET_NAME = re.compile(
    r"KEY(?!WORD|BOARD)|TOKEN(?!S(?:_|$)|IZ|_THRESHOLD|_LIMIT)|SECRET|PASSW|PASSPHRASE|CREDENTIAL|_(?:AUTH|PASS|PWD)$",
    re.IGNORECASE,
)
"""Not in names that count tokens or configure a tokenizer: MAX_TOKENS, TOKENIZERS_PARALLELISM."""

_known: set[str] = set()


def add_secret(value: str | None) -> None:
    """Mask `value` from now on. For tokens that a client found in its own files."""
    if value and len(value) >= _SHORTEST:
        _known.add(value)


def redact(text: str) -> str:
    """`text` without tokens, passwords in URLs, and query strings (which sign URLs)."""
    for secret in _secrets():
        text = text.replace(secret, _MASK)
    text = _CREDENTIALS.sub(f"{_MASK}@", text)
    text = _QUERY.sub(rf"\1?{_MASK}", text)
    text = _AUTHORIZATION.sub(rf"\1{_MASK}", text)
    text = _BEARER.sub(rf"\1{_MASK}", text)
    text = _COOKIE.sub(rf"\1{_MASK}", text)
    text = _SIGNATURE.sub(rf"\1{_MASK}", text)
    return _TOKENS.sub(_MASK, text)


def is_secret(name: str) -> bool:
    """Whether a variable, an option or a key of this name holds a secret."""
    return _SECRET_NAME.search(name.replace("-", "_")) is not None


def has_credentials(value: str) -> bool:
    """Whether a value is an address with a user and a password in it."""
    return _CREDENTIALS.search(value) is not None


def masked(value: Any) -> Any:
    """A JSON value without its secrets: what a secret's key names, and secrets within texts."""
    if isinstance(value, Mapping):
        return {key: _MASK if is_secret(str(key)) and item else masked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked(item) for item in value]
    return redact(value) if isinstance(value, str) else value


def masked_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line without its secrets: values of options that are named so, and keys of JSON values."""
    shown = []
    secret = False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if argument.startswith("-"):
            secret = is_secret(name) and not equals
            shown.append(f"{name}={_MASK if is_secret(name) else _masked_text(value)}" if equals else name)
        else:
            shown.append(_MASK if secret else _masked_text(argument))
    return shown


def _masked_text(text: str) -> str:
    if text.startswith("{"):
        try:
            value = json.loads(text)
            return text if masked(value) == value else json.dumps(masked(value))
        except (ValueError, RecursionError):
            pass
    return redact(text)


class _Filter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Let everything pass, redacted."""
        record.msg, record.args = redact(record.getMessage()), ()
        record.exc_info = None
        return True


_FILTER = _Filter()


def guard_logger(name: str) -> None:
    """Redact what a client library logs, and keep it to errors: quantpipe reports retries itself.

    Filters of a logger do not see what its children log, so that they go to the handlers as well.
    """
    logger = logging.getLogger(name)
    if logger.getEffectiveLevel() > logging.DEBUG:  # a user who is debugging wants more
        logger.setLevel(max(logger.level, logging.ERROR))
    for part in (logger, *logger.handlers):
        if _FILTER not in part.filters:
            part.addFilter(_FILTER)


def _secrets() -> list[str]:
    """All known secrets, longest first: one may be a part of another."""
    found = set(_known)
    found.update(os.environ.get(name, "") for name in _SECRET_VARIABLES)
    for name in _PROXY_VARIABLES:
        value = os.environ.get(name, "")
        if "@" in value:
            try:
                found.add(urlsplit(value).password or "")
            except ValueError:
                continue
    plain = {secret for secret in found if len(secret) >= _SHORTEST}
    return sorted(plain | {quote(secret, safe="") for secret in plain}, key=len, reverse=True)
