"""How the quantize worker failed, as the error to raise."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path

from quantpipe.errors import PreflightError, QuantizeError, QuantpipeError, RetryableError, VerificationError
from quantpipe.host import child
from quantpipe.store.faults import storage_error


def hung(stall_seconds: float, log: Path) -> RetryableError:
    """It did nothing for so long."""
    return RetryableError(
        f"the quantize worker hung: no event, no CPU time and no I/O for {stall_seconds:.0f} s",
        where=str(log),
        hint="run again; if it hangs at the same place, look at the log and at the storage or the device",
        details=child.tail(log, 20),
    )


def failed(failure: Mapping[str, str], log: Path) -> QuantpipeError:
    """The worker's `failed` event (protocol.py), as the kind of error that it is."""
    if failure["fault"] == "storage":
        return _storage(failure, log)
    if failure["fault"] == "source":
        return VerificationError(failure["message"], where=str(log), hint=failure["action"])
    kinds: dict[str, tuple[type[QuantpipeError], str]] = {
        "memory": (PreflightError, "use a host with more memory (`quantpipe plan` says how much)"),
        "environment": (
            PreflightError,
            "QUANTPIPE_QUANTIZE_PYTHON has to name an interpreter with torch, transformers and "
            "msmodelslim; `make setup` makes one",
        ),
        "device": (PreflightError, "correct quantize.device in the recipe"),
    }
    kind, hint = kinds.get(
        failure["fault"], (QuantizeError, "look at the log, which has the whole traceback")
    )
    who = "msmodelslim" if kind is QuantizeError else "the quantize worker"
    what = f"{who} failed: {failure['type']}: {failure['message']}"
    return kind(what, where=str(log), hint=failure["action"] or hint, details=child.tail(log, 20))


def _storage(failure: Mapping[str, str], log: Path) -> QuantpipeError:
    """A storage fault is not a bug: the same error as everywhere, without a traceback."""
    number = getattr(errno, failure["errno"])
    fault = storage_error(OSError(number, failure["message"], failure["file"] or None), log)
    if fault is None:
        raise AssertionError(f"{failure['errno']} is not a storage fault")
    fault.details = (f"reported by the quantize worker, whose log is {log}",)
    return fault


def died(status: int, out_of_memory: bool, log: Path) -> QuantpipeError:
    """The worker ended without reporting why: what its exit status says."""
    details = child.tail(log, 20)
    name = child.signal_name(status)
    if out_of_memory:
        return PreflightError(
            "the kernel killed the quantize worker: out of memory",
            where=str(log),
            hint="engine `stock` holds the whole BF16 model in memory: use a larger host, or raise its limit",
            details=details,
        )
    if name in ("SIGKILL", "SIGTERM"):
        return RetryableError(
            f"the quantize worker was ended from outside by {name}",
            where=str(log),
            hint="run again; if nobody ended it, the host may be short of memory (see `dmesg`)",
            details=details,
        )
    how = f"crashed with {name}" if name else f"ended with status {status} and reported nothing"
    return QuantizeError(
        f"the quantize worker {how}", where=str(log), hint="look at the end of the log", details=details
    )
