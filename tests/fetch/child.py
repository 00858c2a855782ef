"""Run the fetch stage in a process of its own, which tests may kill: `child.py STORE HUB REPO [JOBS]`."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from quantpipe.console import Console
from quantpipe.errors import QuantpipeError, RetryableError
from quantpipe.fetch.policy import Policy
from quantpipe.fetch.stage import FetchStage
from quantpipe.recipe.files import Prompts
from quantpipe.recipe.model import Recipe
from quantpipe.settings import Settings
from quantpipe.stage import Context
from quantpipe.store.lease import Lease
from quantpipe.store.store import Store


def terminated(*_: Any) -> None:
    raise RetryableError("stopped by SIGTERM")


def main(store: str, hub: str, repo: str, jobs: str = "8") -> int:
    signal.signal(signal.SIGTERM, terminated)
    if os.environ.get("TEST_WITHOUT_LEASE"):
        Lease.try_acquire = lambda self: True  # type: ignore[method-assign]
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "source": {"hub": hub, "repo": repo},
            "quantize": {"calibration": {"dataset": Prompts(Path("unused.jsonl"), ("unused",))}},
        }
    )
    root = Store(Path(store))
    context = Context(
        recipe,
        Settings(store=root.root, jobs=int(jobs)),
        root,
        Console("human"),
        root.new_run("tiny"),
    )
    stage = FetchStage(Policy(stall_seconds=30.0, backoff_seconds=0.05, jobs=int(jobs)))
    try:
        stage.key(context)
        result = stage.run(context)
    except KeyboardInterrupt:
        return 130
    except QuantpipeError as error:
        sys.stdout.write(json.dumps(error.to_json()))
        return error.exit_code
    sys.stdout.write(json.dumps({"outputs": result.outputs.to_json(), "figures": result.figures.to_json()}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
