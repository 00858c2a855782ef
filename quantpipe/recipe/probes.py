"""Probes: prompts for the loaded model, in the recipe or in a separate file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import Field, PlainValidator, TypeAdapter, ValidationError, ValidationInfo, WithJsonSchema

from quantpipe.errors import RecipeError
from quantpipe.recipe.files import read_named, read_text
from quantpipe.recipe.problems import refusal
from quantpipe.recipe.section import Section

MAX_PROBES_BYTES = 4 << 20


class Probe(Section):
    """A prompt for the loaded model.

    Attributes:
        prompt: the text; for `chat` the user's message.
        continuation: required beginning of the greedy answer; None accepts any answer.
        max_tokens: maximum number of tokens to generate.
        chat: use /v1/chat/completions instead of /v1/completions.
        must_stop: the answer has to stop on its own, before `max_tokens`.
        any_script: the answer may be in a script that the prompt does not use (a translation).
    """

    prompt: str = Field(min_length=1)
    continuation: str | None = Field(default=None, pattern=r"\S")  # an empty one would match anything
    max_tokens: int = Field(default=16, ge=1, le=4096)
    chat: bool = False
    must_stop: bool = False
    any_script: bool = False


def load_probes(path: Path) -> tuple[Probe, ...]:
    """Read a probes file: a JSON list of probe objects.

    Raises:
        RecipeError: missing, not JSON, or not such a list.
    """
    try:
        value = json.loads(read_text(path, most=MAX_PROBES_BYTES))
        return TypeAdapter(tuple[Probe, ...]).validate_python(value)
    except ValidationError as error:
        raise refusal(path, error.errors(), {}, Probe) from None
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"not valid JSON: {error}", where=str(path), hint="fix the file") from error


def _probes(value: object, info: ValidationInfo) -> tuple[Probe, ...]:
    return read_named(value, info, "probes", load_probes)


ProbesFile = Annotated[tuple[Probe, ...], PlainValidator(_probes), WithJsonSchema({"type": "string"})]
"""In the file a path, relative to the recipe's folder; once validated the probes."""
