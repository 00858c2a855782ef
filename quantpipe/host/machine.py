"""What this machine offers: memory, NPUs, and interpreters with the right packages in them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from quantpipe.errors import PreflightError

NPU_DEVICES = Path("/dev")
"""Where the Ascend driver shows one davinci<N> per device."""

# Without the working directory, which -c puts first: in a checkout it would offer `quantpipe`.
_FIND = """
import sys
sys.path[:] = [entry for entry in sys.path if entry]
import importlib.util
print(*[name for name in sys.argv[1:] if importlib.util.find_spec(name) is None])
"""

_OWN_PYTHON = ("PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


def for_other_python(base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The caller's environment without what would lead another interpreter into quantpipe's own.

    PYTHONPATH stays, apart from entries of this environment: on Ascend hosts CANN's set_env.sh puts the
    operator compiler there, without which torch_npu cannot run.
    """
    environment = {name: value for name, value in base.items() if name not in _OWN_PYTHON}
    entries = environment.pop("PYTHONPATH", "").split(os.pathsep)
    kept = [entry for entry in entries if entry and not Path(entry).is_relative_to(sys.prefix)]
    return {**environment, "PYTHONPATH": os.pathsep.join(kept)} if kept else environment


CONTROL_GROUPS = Path("/sys/fs/cgroup")


def memory_limit() -> int:
    """Bytes that a new process may use: what is available, or less where a control group leaves less.

    Sources: MemAvailable of proc(5) meminfo; for every group on the way up to the root memory.max minus
    memory.current (cgroup v2), or memory.limit_in_bytes minus memory.usage_in_bytes (v1).
    """
    available = 0
    for line in Path("/proc/meminfo").read_text("ascii").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    return max(0, min([available, *_left_in_groups(_own_groups())]))


def _own_groups() -> str:
    """The control groups of this process, as proc(5) cgroup lists them."""
    try:
        return Path("/proc/self/cgroup").read_text("ascii")
    except OSError:
        return ""


def _left_in_groups(listing: str) -> list[int]:
    """Bytes that each memory group, and each one above it, leaves; nothing for groups without a limit."""
    left = []
    for line in listing.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            folder, limit, used = CONTROL_GROUPS, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            folder, limit, used = CONTROL_GROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = folder / path.strip("/")
        for place in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # no such file, or the word "max"
                left.append(int((place / limit).read_text("ascii")) - int((place / used).read_text("ascii")))
            if place == folder:
                break
    return left


def npus() -> list[str]:
    """The Ascend devices that the driver shows, such as ["davinci0", "davinci1"]."""
    found = [path.name for path in NPU_DEVICES.glob("davinci*") if path.name[7:].isdigit()]
    return sorted(found, key=lambda name: int(name[7:]))


def require_npu(where: str) -> None:
    """Refuse to go on without an NPU.

    Raises:
        PreflightError: the driver shows none.
    """
    if not npus():
        raise PreflightError(
            "no NPU here: the driver shows no /dev/davinci<N>",
            where=where,
            hint="run on an NPU host, or map the devices into this container; "
            "recipes/tiny-qwen3-moe-w8a8-rot.yaml runs on a CPU",
        )


def require_interpreter(python: Path, variable: str, packages: tuple[str, ...]) -> None:
    """Refuse to go on without an interpreter that can find these packages; none is imported.

    Raises:
        PreflightError: no interpreter there, or a package is missing.
    """
    hint = f"run `make setup`, or let {variable} name an interpreter that has {', '.join(packages)}"
    if not python.is_file():
        raise PreflightError("no such interpreter", where=f"{python} ({variable})", hint=hint)
    try:
        done = subprocess.run(
            [str(python), "-c", _FIND, *packages],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env=for_other_python(),
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise PreflightError(
            f"the interpreter does not work: {error}", where=f"{python} ({variable})", hint=hint
        ) from error
    if missing := done.stdout.split():
        raise PreflightError(
            f"the interpreter lacks {', '.join(missing)}", where=f"{python} ({variable})", hint=hint
        )
