"""Which processes hold memory of the NPUs, by `npu-smi info`."""

from __future__ import annotations

import re
import subprocess

from quantpipe.host.environment import for_child

_ROW = re.compile(r"^\|\s*\d+\s+\d+\s*\|\s*(\d{1,18})\s*\|[^|]*\|\s*(\d{1,18})\s*\|$")
_TIMEOUT_SECONDS = 20


def device_processes() -> dict[int, int]:
    """Process id to MiB of device memory; empty where there is no `npu-smi`.

    Reads the second table of `npu-smi info`, whose rows are "| NPU Chip | id | name | MiB |".
    """
    try:
        done = subprocess.run(
            ["npu-smi", "info"],
            capture_output=True,
            timeout=_TIMEOUT_SECONDS,
            check=True,
            env=for_child(),
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return processes_in(done.stdout.decode("utf-8", "replace"))


def processes_in(table: str) -> dict[int, int]:
    """Process id to MiB of device memory in the output of `npu-smi info`; other lines are passed over."""
    rows = (_ROW.match(line.strip()) for line in table.splitlines())
    return {int(row[1]): int(row[2]) for row in rows if row}
