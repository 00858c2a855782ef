"""Why a server failed, according to its log: known causes, the first real error, the last lines."""

from __future__ import annotations

import re
from pathlib import Path

from quantpipe.errors import PreflightError, QuantpipeError, SmokeError
from quantpipe.smoke.causes import CAUSES, OUT_OF_MEMORY, Cause

_TAIL_LINES = 50
_READ_LIMIT = 8 << 20
_LINE_LIMIT = 2000
"""Characters of a line: the patterns take the square of it, and a log may have lines of megabytes."""

_CHATTER = re.compile(r"^(?:\(.*?\)\s*)?(?:INFO|DEBUG|WARNING)\b")
"""Lines about what works or is in progress, in words that causes use too: "HCCL ... initialised"."""

_ERROR = re.compile(
    r"^\S*?(?:\(.*?\)\s*)?(?:ERROR.*?\]\s*)?((?:[\w.]+\.)?[A-Z]\w*(?:Error|Exception)): (.+)$"
)

_CONTINUED = re.compile(r"^(?:\(.*?\) ?)?(?:ERROR.*?\] ?)? {2,}(?!File |[\^~ ])(\S.*)$")
_MOST_CONTINUED = 3


def diagnose(log: Path, start: int, what: str, *, out_of_memory: bool = False) -> QuantpipeError:
    """The error to raise for a server that failed.

    Args:
        log: the server's log.
        start: where in it this server's output begins, bytes.
        what: what was observed from outside.
        out_of_memory: the kernel's OOM killer killed a process of this control group meanwhile.
    """
    lines = _read(log, start)
    details = lines[-_TAIL_LINES:]
    cause = OUT_OF_MEMORY if out_of_memory else _first_cause(lines)
    first = first_error(lines)
    if cause is None:
        text = f"{what}: {first}" if first else what
        return SmokeError(text, where=str(log), hint="look at the log; its end is below", details=details)
    kind: type[QuantpipeError] = PreflightError if cause.host else SmokeError
    quoted = f" ({first})" if first else ""
    return kind(f"{what}: {cause.what}{quoted}", where=str(log), hint=cause.hint, details=details)


def _first_cause(lines: list[str]) -> Cause | None:
    """The cause that is logged first: later ones, of other processes too, are mostly its consequences."""
    for line in lines:
        if _CHATTER.match(line):
            continue
        for cause in CAUSES:
            if cause.pattern.search(line):
                return cause
    return None


def first_error(lines: list[str]) -> str | None:
    """The first line that names an exception: later ones are mostly its consequences.

    With a few of the indented lines after it: the strict load names the tensors there.
    """
    for number, line in enumerate(lines):
        if found := _ERROR.match(line):
            text = [f"{found[1].rpartition('.')[2]}: {found[2]}"]
            for following in lines[number + 1 : number + 1 + _MOST_CONTINUED]:
                more = _CONTINUED.match(following)
                if more is None:
                    break
                text.append(more[1])
            return "; ".join(text)
    return None


def _read(log: Path, start: int) -> list[str]:
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(start, size - _READ_LIMIT))
            lines = file.read().decode("utf-8", "replace").splitlines()
            return [line[:_LINE_LIMIT] for line in lines]
    except OSError:
        return []
