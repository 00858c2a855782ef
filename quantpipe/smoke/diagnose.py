"""Why a server failed, as far as its log tells: known causes, the first real error, the last lines."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from quantpipe.errors import PreflightError, QuantpipeError, SmokeError

_TAIL_LINES = 50
_READ_LIMIT = 8 << 20


@dataclass(frozen=True)
class Cause:
    """A known failure.

    Attributes:
        pattern: what its log says.
        what: the cause in one line.
        hint: the next step.
        host: the fault is this machine's and not the checkpoint's.
    """

    pattern: re.Pattern[str]
    what: str
    hint: str
    host: bool = False


def _cause(pattern: str, what: str, hint: str, *, host: bool = False) -> Cause:
    return Cause(re.compile(pattern, re.IGNORECASE), what, hint, host)


CAUSES = (
    _cause(
        r"address already in use",
        "the port is in use",
        "choose another with --port, or 0 for a free one",
        host=True,
    ),
    _cause(
        r"No module named '?vllm'?",
        "vLLM is not installed in the serving environment",
        "run `make setup`, or let QUANTPIPE_SERVE_PYTHON name an interpreter that has vllm",
        host=True,
    ),
    _cause(
        r"out of memory|Cannot allocate memory|MemoryError|No available memory for the cache blocks",
        "out of memory",
        "lower max_model_len, max_num_seqs or gpu_memory_utilization, or use more devices",
        host=True,
    ),
    _cause(
        r"hcclCommInit|HCCL.*(init|fail)|EI0006|EI0004",
        "the devices could not talk to each other (HCCL initialisation)",
        "check the device network with hccn_tool, HCCL_IF_IP and the firewall between devices",
        host=True,
    ),
    _cause(
        r"libascend_hal\.so|drvErr|driver.*not (found|installed)|dcmi.*(fail|not)",
        "the Ascend driver is missing or not visible here",
        "`npu-smi info` has to work in this very environment; map the driver into the container",
        host=True,
    ),
    _cause(
        r"ModelSlim Quantization Config Not Found|quant_model_description\.json.*not found",
        "the description is missing",
        "the checkpoint is incomplete: `quantpipe verify` on it says what else is",
    ),
    _cause(
        r"(Unknown quantization method|invalid choice|Input should be).*ascend",
        "this vLLM does not know `--quantization ascend`",
        "the serving environment lacks vllm-ascend, or on a CPU quantpipe's plugin: run `make setup`",
        host=True,
    ),
    _cause(
        r"Cannot find any model weights",
        "no weights were found",
        "an index of another model may lie in the directory: `quantpipe verify` names it",
    ),
)

_CHATTER = re.compile(r"^(?:\(.*?\)\s*)?(?:INFO|DEBUG)\b")
"""Lines that say what goes well, in words that causes use too: "HCCL ... initialised"."""

_ERROR = re.compile(
    r"^\S*?(?:\(.*?\)\s*)?(?:ERROR.*?\]\s*)?((?:[\w.]+\.)?[A-Z]\w*(?:Error|Exception)): (.+)$"
)


def diagnose(log: Path, start: int, what: str) -> QuantpipeError:
    """The error to raise for a server that failed.

    Args:
        log: the server's log.
        start: where in it this server's output begins, bytes.
        what: what was seen from outside.
    """
    lines = _read(log, start)
    details = lines[-_TAIL_LINES:]
    telling = [line for line in lines if not _CHATTER.match(line)]
    for cause in CAUSES:
        if any(cause.pattern.search(line) for line in telling):
            kind: type[QuantpipeError] = PreflightError if cause.host else SmokeError
            return kind(f"{what}: {cause.what}", where=str(log), hint=cause.hint, details=details)
    first = first_error(lines)
    text = f"{what}: {first}" if first else what
    return SmokeError(text, where=str(log), hint="look at the log; its end is below", details=details)


def first_error(lines: list[str]) -> str | None:
    """The first line that names an exception: later ones are mostly its consequences."""
    for line in lines:
        found = _ERROR.match(line)
        if found:
            return f"{found[1].rpartition('.')[2]}: {found[2]}"
    return None


def _read(log: Path, start: int) -> list[str]:
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(start, size - _READ_LIMIT))
            return file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
