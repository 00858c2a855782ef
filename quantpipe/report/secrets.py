"""What a report never shows: tokens, signed addresses, secrets in environments and on command lines."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from quantpipe.redact import redact
from quantpipe.smoke.server_command import is_secret

MASK = "***"

_OPTION = re.compile(r"--(?:[\w-]*-)?(?:api-key|key|token|password|secret)", re.IGNORECASE)
"""An option whose value is a secret: `--api-key`, `--ssl-key-password`."""


def redacted(value: Any) -> Any:
    """A JSON value in which no text holds a known secret."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redacted(item) for key, item in value.items()}
    return [redacted(item) for item in value] if isinstance(value, list | tuple) else value


def masked_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables without the values of secrets."""
    return {name: MASK if is_secret(name) else value for name, value in environment.items()}


def masked_arguments(arguments: Sequence[str]) -> tuple[str, ...]:
    """A command line without the values of secret options, in both forms: `--key value` and `--key=value`."""
    found: list[str] = []
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if found and _OPTION.fullmatch(found[-1]) and not argument.startswith("--"):
            found.append(MASK)
        elif equals and _OPTION.fullmatch(name):
            found.append(f"{name}={MASK}")
        else:
            found.append(argument)
    return tuple(found)
