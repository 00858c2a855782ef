"""From a recipe's source to the hub that serves it. Clients are imported only when they are used."""

from __future__ import annotations

from typing import Protocol

from quantpipe.errors import PreflightError
from quantpipe.fetch.hub import Hub
from quantpipe.fetch.hubs.local import LocalHub
from quantpipe.fetch.hubs.offline import OfflineHub
from quantpipe.fetch.sources import Select
from quantpipe.stage import Context


def make_hub(context: Context, select: Select) -> Hub:
    """The hub of the recipe's source; one that answers from the store if the user wants no network.

    Raises:
        PreflightError: the hub's client is not installed.
    """
    source = context.recipe.source
    if source.hub == "local":
        return LocalHub(context.store.root, select, jobs=context.settings.jobs)
    try:
        hub = _remote(source.hub)
    except ImportError as error:
        raise PreflightError(
            f"cannot import the client for {source.hub}: {error}",
            hint=f"pip install {'huggingface-hub' if source.hub == 'huggingface' else 'modelscope-hub'}",
        ) from error
    if hub.offline:
        return OfflineHub(source.hub, context.store.snapshot(source.hub, source.repo, "any").parent)
    return hub


def _remote(name: str) -> _Remote:
    if name == "huggingface":
        import huggingface_hub  # noqa: F401  (so that a missing client is found here)

        from quantpipe.fetch.hubs.huggingface import HuggingFaceHub

        return HuggingFaceHub()
    import modelscope_hub  # noqa: F401

    from quantpipe.fetch.hubs.modelscope import ModelScopeHub

    return ModelScopeHub()


class _Remote(Hub, Protocol):
    @property
    def offline(self) -> bool:
        """Whether the user wants no network."""
        ...
