"""How to serve a generation, and how to return to the one before."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from quantpipe.publish import retention
from quantpipe.recipe.serve import Serve
from quantpipe.redact import masked, masked_arguments
from quantpipe.report.document import Serving, WayBack
from quantpipe.smoke.server_command import serve_command
from quantpipe.store.damaged import marked
from quantpipe.store.store import Store


def serving(generation: Path, settings: Mapping[str, Any]) -> Serving | None:
    """The command for the recipe's serve profile; None where the profile is not known, or not allowed."""
    smoke = settings.get("smoke")
    if not isinstance(smoke, Mapping):
        return None
    try:
        serve = Serve.model_validate(smoke["serve"])
    except ValidationError:  # of an earlier version, which allowed more
        return None
    command = serve_command(generation, serve, launcher=str(smoke["launcher"]))
    return Serving(command.shell(), tuple(masked_arguments(command.arguments)), masked(command.environment))


def way_back(store: Store, name: str, digest: str) -> WayBack:
    """What `quantpipe rollback` would do while this generation is current: see `retention.rollback`."""
    order = store.pointer(name).order()
    before = order[: order.index(digest)] if digest in order else []
    for target in reversed(before):
        place = store.generation(name, target)
        if place.is_dir() and not marked(place) and not retention.held(store, name, target):
            command = ["quantpipe", "rollback", name, "--store", str(store.root), "--reason", "..."]
            return WayBack(shlex.join(command), target)
    return WayBack("", None)
