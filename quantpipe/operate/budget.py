"""How much a scrub may read: `30m`, `200GiB`, or both."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from quantpipe.errors import UsageError

_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")

_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}

_BYTES = {"B": 1}
for _power, _letter in enumerate("KMGT", 1):
    _BYTES[f"{_letter}iB"] = 1024**_power
    _BYTES[f"{_letter}B"] = 1000**_power


@dataclass(frozen=True)
class Budget:
    """What may be spent; None where there is no limit.

    Attributes:
        seconds: no file is begun after so long.
        bytes: no file is begun that would exceed it, except for the first one.
    """

    seconds: float | None = None
    bytes: int | None = None

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Budget:
        """From what the command line says: times and sizes, the last of each counts.

        Raises:
            UsageError: one is neither.
        """
        seconds: float | None = None
        size: int | None = None
        for text in texts:
            number, unit = _split(text)
            if unit in _SECONDS:
                seconds = number * _SECONDS[unit]
            elif unit in _BYTES:
                size = int(number * _BYTES[unit])
            else:
                raise _wrong(text, "30m, 2h, 200GiB or 1.5TB")
        return cls(seconds, size)


def parse_seconds(text: str) -> float:
    """A time like `36h` or `7d`, in seconds.

    Raises:
        UsageError: it is something else.
    """
    number, unit = _split(text)
    if unit not in _SECONDS:
        raise _wrong(text, "90m, 36h, 7d or 2w")
    return number * _SECONDS[unit]


def _split(text: str) -> tuple[float, str]:
    found = _AMOUNT.fullmatch(text)
    return (float(found[1]), found[2]) if found is not None else (0.0, "")


def _wrong(text: str, examples: str) -> UsageError:
    return UsageError(f"{text!r} is no amount", hint=f"write {examples}")
