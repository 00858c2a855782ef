"""What ran: counted by each test, printed as one table at the end of `make test-attack`."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

VARIABLE = "ATTACK_FIGURES"
"""Names the file that the workers of a session add to."""


def add(**counts: float) -> None:
    """Count; the names are the rows of the table."""
    path = os.environ.get(VARIABLE)
    if path:
        with Path(path).open("a") as file:  # one short write: lines of several workers do not mix
            file.write(json.dumps(counts) + "\n")


def table(path: Path) -> list[str]:
    """The sums, one row each."""
    sums: Counter[str] = Counter()
    for line in path.read_text().splitlines():
        sums.update(json.loads(line))
    width = max((len(name) for name in sums), default=0)
    return [f"{name.replace('_', ' '):<{width}}  {round(sums[name], 1):>12,}" for name in sorted(sums)]
