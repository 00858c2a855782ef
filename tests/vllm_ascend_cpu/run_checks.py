"""Run the functions `check_*` of a script in this interpreter: SCRIPT TMP_DIR REPORT [NAME ...].

Each function is called with a fresh directory. REPORT becomes a JSON object: check -> traceback, or null.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from pathlib import Path


def main(script: str, tmp: str, report: str, *names: str) -> None:
    module = importlib.import_module(script.removesuffix(".py"))
    checks = {name: f for name, f in vars(module).items() if name.startswith("check_") and callable(f)}
    results: dict[str, str | None] = {}
    for name in names or checks:
        directory = Path(tmp) / name
        directory.mkdir()
        try:
            checks[name](directory)
            results[name] = None
        except Exception:
            results[name] = traceback.format_exc()
    Path(report).write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
