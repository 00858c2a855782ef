"""What every section of a recipe is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of a recipe: frozen, and closed to keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)
