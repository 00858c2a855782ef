"""What this machine offers: memory, NPUs, and interpreters with the right packages in them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from quantpipe.errors import PreflightError
from quantpipe.host import cgroups, environment, procfs

NPU_DEVICES = Path("/dev")
"""Where the Ascend driver shows one davinci<N> per device."""

# Without the working directory, which -c puts first: in a checkout it would offer `quantpipe`.
_FIND = """
import sys
sys.path[:] = [entry for entry in sys.path if entry]
import importlib.util
print(*[name for name in sys.argv[1:] if importlib.util.find_spec(name) is None])
"""


def memory_limit() -> int:
    """Bytes that a new process may use: what is available, or less where a control group leaves less."""
    return max(0, min([procfs.available_memory(), *cgroups.memory_left()]))


def npus() -> list[str]:
    """The Ascend devices that the driver shows, such as ["davinci0", "davinci1"]."""
    found = [path.name for path in NPU_DEVICES.glob("davinci*") if path.name[7:].isdigit()]
    return sorted(found, key=lambda name: int(name[7:]))


def require_npu(where: str) -> None:
    """Require an NPU.

    Raises:
        PreflightError: the driver shows none.
    """
    if not npus():
        raise PreflightError(
            "no NPU on this host: the driver shows no /dev/davinci<N>",
            where=where,
            hint="run on an NPU host, or map the devices into this container; "
            "recipes/tiny-qwen3-moe-w8a8-rot.yaml runs on a CPU",
        )


def named_interpreter(python: Path | None, variable: str) -> Path:
    """The interpreter of a setting.

    Raises:
        PreflightError: the setting names none.
    """
    if python is None:
        hint = f"set {variable} to the interpreter (bin/python) of the environment to use"
        raise PreflightError("no interpreter is set", where=variable, hint=hint)
    return python


def require_interpreter(python: Path | None, variable: str, packages: tuple[str, ...]) -> None:
    """Require an interpreter that can find these packages; none is imported.

    Raises:
        PreflightError: no interpreter there, or a package is missing.
    """
    hint = f"set {variable} to an interpreter that has {', '.join(packages)}"
    if python is None:
        raise PreflightError("no interpreter is set", where=variable, hint=hint)
    hint = f"run `make setup`, or {hint}"
    if not python.is_file():
        raise PreflightError("no such interpreter", where=f"{python} ({variable})", hint=hint)
    try:
        done = subprocess.run(
            [str(python), "-c", _FIND, *packages],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env=environment.for_child(),
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise PreflightError(
            f"the interpreter does not work: {error}", where=f"{python} ({variable})", hint=hint
        ) from error
    if missing := done.stdout.split():
        raise PreflightError(
            f"the interpreter lacks {', '.join(missing)}", where=f"{python} ({variable})", hint=hint
        )
