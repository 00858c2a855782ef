"""Settings: how to run. Flags win over environment variables, those over defaults; none is digested."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from quantpipe.errors import UsageError

PROJECT_ROOT = Path(__file__).resolve().parent.parent
"""The checkout, when quantpipe runs from one; its environments lie here."""


@dataclass(frozen=True)
class Settings:
    """How to run.

    Attributes:
        store: root of the store, on storage that all hosts share (QUANTPIPE_STORE).
        quantize_python: interpreter that has msmodelslim (QUANTPIPE_QUANTIZE_PYTHON).
        serve_python: interpreter that has vLLM (QUANTPIPE_SERVE_PYTHON).
        jobs: files hashed or fetched at a time (QUANTPIPE_JOBS).
        stall_seconds: how long the quantize worker may show no sign of life (QUANTPIPE_STALL_SECONDS).
        port: port of the smoke server; 0 takes a free one (QUANTPIPE_PORT).
    """

    store: Path
    quantize_python: Path
    serve_python: Path
    jobs: int
    stall_seconds: float = 1800.0
    port: int = 0

    @classmethod
    def resolve(cls, environment: Mapping[str, str] = os.environ, **flags: object) -> Settings:
        """Merge flags (None where not given), environment variables and defaults.

        Raises:
            UsageError: a value is not of its type; the message names the variable.
        """
        known = {field.name for field in fields(cls)}
        if unknown := flags.keys() - known:
            raise TypeError(f"unknown settings {sorted(unknown)}")

        def pick(name: str, default: object) -> str:
            flag = flags.get(name)
            chosen = flag if flag is not None else environment.get(f"QUANTPIPE_{name.upper()}") or default
            return str(chosen)

        return cls(
            store=Path(pick("store", "store")).expanduser().absolute(),
            quantize_python=_interpreter(pick("quantize_python", _own(".venv-quantize"))),
            serve_python=_interpreter(pick("serve_python", _own(".venv-serve"))),
            jobs=_whole("jobs", pick("jobs", min(8, os.cpu_count() or 1)), 1, 1024),
            stall_seconds=_number("stall_seconds", pick("stall_seconds", 1800), 1, math.inf),
            port=_whole("port", pick("port", 0), 0, 65535),
        )


def _own(name: str) -> Path:
    return PROJECT_ROOT / name / "bin" / "python"


def _interpreter(value: str) -> Path:
    """An absolute path; its links stay, since a virtual environment is found through them."""
    return Path(value).expanduser().absolute()


def _number(name: str, value: str, least: float, most: float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not least <= number <= most:  # also where it is not a number
        raise _wrong(name, value, "a number", least, most)
    return number


def _whole(name: str, value: str, least: int, most: int) -> int:
    number = _number(name, value, least, most)
    if not number.is_integer():
        raise _wrong(name, value, "a whole number", least, most)
    return int(number)


def _wrong(name: str, value: str, kind: str, least: float, most: float) -> UsageError:
    limits = f"of at least {least:g}" if math.isinf(most) else f"from {least:g} to {most:g}"
    return UsageError(
        f"{name.replace('_', '-')} has to be {kind} {limits}, not {value!r}",
        where=f"--{name.replace('_', '-')} or QUANTPIPE_{name.upper()}",
        hint="correct the flag or the environment variable",
    )
