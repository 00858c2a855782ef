"""Reference answers: log-probabilities of the unquantized model, to compare with.

An optional file `reference.json` in the run's directory: a JSON list of
`{"prompt": TEXT, "token_logprobs": [null, -1.25, ...]}`, one number per token of the prompt as
/v1/completions gives them with `echo` and `logprobs` (the first has none).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantpipe.errors import SmokeError
from quantpipe.smoke.client import short
from quantpipe.smoke.conformance import Exchange
from quantpipe.smoke.session import COMPLETIONS, Request, Session

FILENAME = "reference.json"


def load_reference(path: Path) -> list[dict[str, Any]]:
    """The reference answers; empty where there is no such file.

    Raises:
        SmokeError: the file has another form.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
        for entry in value:
            if not isinstance(entry["prompt"], str) or not isinstance(entry["token_logprobs"], list):
                raise TypeError("prompt or token_logprobs")
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError) as error:
        hint = "remove the file, or generate it again"
        raise SmokeError(f"not reference answers: {error!r}", where=str(path), hint=hint) from error
    return list(value)


def compare(session: Session, reference: Sequence[dict[str, Any]], most: float) -> Exchange:
    """The mean difference of the prompts' log-probabilities to the reference.

    Args:
        most: allowed mean difference, nats per token.

    Raises:
        SmokeError: it is more, or the tokens are not the same.
    """
    began = time.monotonic()
    differences: list[float] = []
    for entry in reference:
        request = _echo(session, entry["prompt"])
        wanted = entry["token_logprobs"]
        found = session.complete(request).token_logprobs[: len(wanted)]
        if len(found) != len(wanted):
            raise SmokeError(
                f"{short(entry['prompt'])} has {len(found)} tokens, but {len(wanted)} in the reference",
                where=session.url(request),
                hint="the reference was generated with another tokenizer: generate it again",
            )
        pairs = zip(found, wanted, strict=True)
        differences += [_difference(one, two) for one, two in pairs if two is not None]
    drift = sum(differences) / max(1, len(differences))
    if not drift <= most:  # also where it is NaN
        raise SmokeError(
            f"log-probabilities differ from the reference by {drift:.3f} on average, {most:g} are allowed",
            where="smoke.max_logprob_drift",
            hint="quantization changed the model too much: `quantpipe verify --against` says where",
        )
    numbers = {"tokens": len(differences), "mean_difference": round(drift, 6)}
    prompts = [entry["prompt"] for entry in reference]
    return Exchange("reference", prompts, numbers, round(time.monotonic() - began, 3))


def _echo(session: Session, prompt: str) -> Request:
    """Asks for the log-probabilities of the prompt's own tokens."""
    body = {"model": session.model, "prompt": prompt, "temperature": 0, "max_tokens": 1}
    return Request(COMPLETIONS, {**body, "echo": True, "logprobs": 1})


def _difference(found: Any, wanted: Any) -> float:
    return abs(found - wanted) if isinstance(found, int | float) else math.nan
