"""quantpipe: one recipe in, one verified, servable W8A8 checkpoint out.

The public API is what `__all__` names, described in docs/python.md; everything else is private and may change
in any release:

    from quantpipe import Settings, load_recipe, run

    result = run(load_recipe("recipes/x.yaml"), Settings(store=Path("/mnt/weights")))

The names are imported when they are first used. This module stays free of imports beyond the standard
library: it is also loaded inside the quantization and serving environments, where the core's dependencies
are absent.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantpipe.console import Console
    from quantpipe.errors import (
        InterruptedRunError,
        LeaseHeldError,
        PreflightError,
        QuantizeError,
        QuantpipeError,
        RecipeError,
        RetryableError,
        SmokeError,
        StorageFullError,
        UsageError,
        VerificationError,
    )
    from quantpipe.pipeline import Plan, RunResult, Selection, plan, run
    from quantpipe.recipe.load import load_recipe
    from quantpipe.recipe.model import Recipe
    from quantpipe.settings import Settings
    from quantpipe.verify.report import Report
    from quantpipe.verify.standalone import verify

__version__ = "0.1.0"

__all__ = [
    "Console",
    "InterruptedRunError",
    "LeaseHeldError",
    "Plan",
    "PreflightError",
    "QuantizeError",
    "QuantpipeError",
    "Recipe",
    "RecipeError",
    "Report",
    "RetryableError",
    "RunResult",
    "Selection",
    "Settings",
    "SmokeError",
    "StorageFullError",
    "UsageError",
    "VerificationError",
    "load_recipe",
    "plan",
    "run",
    "verify",
]

_HOMES = {
    "Console": "console",
    "Plan": "pipeline",
    "Recipe": "recipe.model",
    "Report": "verify.report",
    "RunResult": "pipeline",
    "Selection": "pipeline",
    "Settings": "settings",
    "load_recipe": "recipe.load",
    "plan": "pipeline",
    "run": "pipeline",
}
"""The module of each name; all others are errors. `verify` is the room itself, which can be called."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "verify":
        return import_module(f"{__name__}.verify")
    home = import_module(f"{__name__}.{_HOMES.get(name, 'errors')}")
    value: object = getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
