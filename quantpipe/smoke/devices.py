"""Which processes hold memory of the NPUs, by `npu-smi info`."""

from __future__ import annotations

import re
import subprocess

from quantpipe.host.environment import for_child

_ROW = re.compile(r"^\|\s*\d+\s+\d+\s*\|\s*(\d+)\s*\|[^|]*\|\s*(\d+)\s*\|$")
_TIMEOUT_SECONDS = 20


def device_processes() -> dict[int, int]:
    """Process id to MiB of device memory; empty where there is no `npu-smi`.

    Reads the second table of `npu-smi info`, whose rows are "| NPU Chip | id | name | MiB |".
    """
    try:
        done = subprocess.run(
            ["npu-smi", "info"],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=True,
            env=for_child(),
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    rows = (_ROW.match(line.strip()) for line in done.stdout.splitlines())
    return {int(row[1]): int(row[2]) for row in rows if row}
