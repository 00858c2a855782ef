"""From a recipe's source to the hub that serves it. Clients are imported only when they are used."""

from __future__ import annotations

from quantpipe.fetch.hub import Hub
from quantpipe.fetch.local import LocalHub
from quantpipe.fetch.sources import Select
from quantpipe.stage import Context


def make_hub(context: Context, select: Select) -> Hub:
    """The hub of the recipe's source.

    Raises:
        PreflightError: the hub's client is not installed or not configured.
    """
    return LocalHub(context.store.root, select, jobs=context.settings.jobs)
