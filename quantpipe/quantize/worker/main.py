"""The worker's life: read the job, prepare the device, run the engine, report how it ended."""

from __future__ import annotations

import errno
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from quantpipe.checkpoint.fetched import ChangedError
from quantpipe.quantize.worker import device
from quantpipe.quantize.worker.protocol import EXIT_STOPPED, Job, Reporter, StoppedError
from quantpipe.quantize.worker.versions import versions
from quantpipe.store.faults import is_storage_fault

_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")
"""How safetensors, as all of Rust, reports errno: in the text of an error of its own."""

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory")


def main(job_file: Path, descriptor: int) -> int:
    """Run one job; 0 when it is done, 75 when SIGTERM stopped it, 1 when it failed (the pipe says why)."""
    reporter = Reporter(descriptor)
    began = time.monotonic()
    try:
        job = Job.read(job_file)
        # Without CANN even `import torch` fails where torch_npu is installed but not wanted.
        if job.device != "npu":
            os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
        reporter.send("phase", name="import")
        device.prepare(job.device, job.device_indices)
        import torch

        reporter.send("started", versions=versions(), threads=torch.get_num_threads())
        _engine(job.engine)(job, reporter)
    except StoppedError as stopped:
        reporter.send("stopped", message=str(stopped))
        return EXIT_STOPPED
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        reporter.send("failed", **describe(error))
        return 1
    reporter.send("finished", seconds=round(time.monotonic() - began, 3))
    return 0


def _engine(name: str) -> Callable[[Job, Reporter], None]:
    if name == "streaming":
        from quantpipe.quantize.worker.streaming import engine

        return engine.quantize
    from quantpipe.quantize.worker import stock

    return stock.quantize


def describe(error: BaseException) -> dict[str, str]:
    """An error as the fields of the pipe's `failed` event.

    msmodelslim sometimes wraps the cause in another error: the first cause is described.
    """
    first = error
    while first.__cause__ is not None:
        first = first.__cause__
    action = getattr(error, "action", None) or getattr(first, "action", None) or ""
    return {
        "type": type(first).__name__,
        "message": str(first) or repr(first),
        "action": str(action),
        **_kind(first),
    }


def _kind(error: BaseException) -> dict[str, str]:
    """What kind of fault it is; of a storage fault also errno and the file."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := _SYSTEM_ERROR.search(str(error))):
        number = int(found[1])
    if number is None or not is_storage_fault(number):
        return {"fault": _fault(error)}
    file = getattr(error, "filename", None)
    name = os.fsdecode(file) if isinstance(file, str | bytes) else ""
    return {"fault": "storage", "errno": errno.errorcode[number], "file": name}


def _fault(error: BaseException) -> str:
    number = error.errno if isinstance(error, OSError) else None
    # torch has no type of its own for lack of memory, on a CPU or on a device: only the words are left.
    text = str(error).lower()
    exhausted = any(words in text for words in _OUT_OF_MEMORY)
    if number == errno.ENOMEM or isinstance(error, MemoryError) or exhausted:
        return "memory"
    if isinstance(error, ImportError):
        return "environment"
    if isinstance(error, device.DeviceError):
        return "device"
    if isinstance(error, ChangedError):
        return "source"
    return "error"
