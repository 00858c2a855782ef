"""The recipe as a report keeps it: the keys that decide a result, without secrets and without long lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from quantpipe.digest import digest_of
from quantpipe.recipe.model import Recipe
from quantpipe.recipe.quality import GATES
from quantpipe.redact import masked, masked_arguments


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Sections by name. Datasets and probes count by content: they stay as digests."""
    found = recipe.stage_inputs()
    smoke: dict[str, Any] = found["smoke"]
    probes: list[Any] = smoke.get("probes") or []
    smoke["probes"] = {"count": len(probes), "digest": digest_of(probes)}
    serve: dict[str, Any] = smoke["serve"]
    serve["environment"] = masked(serve["environment"])
    serve["extra_args"] = list(masked_arguments(serve["extra_args"]))
    return {
        "source": found["fetch"],
        "quantize": found["quantize"],
        "quality": {key: getattr(recipe.quality, key) for key in ("measure", *GATES)},
        "verify": found["verify"],
        "smoke": smoke,
        "publish": {"keep": recipe.publish.keep},
    }


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with its value, sections joined by dots: `quantize.rotate`, true."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
