"""The snapshot, as quantize looks at it before and after the worker reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quantpipe.checkpoint.fetched import ChangedError, known_files, require_same
from quantpipe.checkpoint.names import CONFIG, SHARD_GLOB
from quantpipe.errors import PreflightError, VerificationError


def require_unchanged(snapshot: Path) -> None:
    """Compare config, tokenizer and all other small files with the hashes of the fetch.

    The weights are compared by the worker, tensor by tensor as it reads them.

    Raises:
        VerificationError: a file changed since it was fetched.
    """
    try:
        require_same(snapshot, [path for path, hashes in known_files(snapshot) if hashes.tensors is None])
    except ChangedError as error:
        raise VerificationError(str(error), where=str(snapshot), hint=error.action) from error


def weight_bytes(snapshot: Path) -> int:
    """The bytes of the weights."""
    return sum(path.stat().st_size for path in snapshot.glob(SHARD_GLOB))


def refuse_tied_embeddings(snapshot: Path) -> None:
    """Engine `stock` rotates a matrix that embedding and lm_head share twice: wrong, and it loads.

    Raises:
        PreflightError: embeddings are tied.
    """
    config: dict[str, Any] = json.loads((snapshot / CONFIG).read_text("utf-8"))
    if config.get("tie_word_embeddings"):
        raise PreflightError(
            "engine `stock` rotates tied embeddings twice, which loads and answers wrongly",
            where="quantize.rotate",
            hint="set `rotate: false`, or quantize a model whose embeddings are not tied",
        )
