"""The snapshot, as quantize looks at it before and after the worker reads it."""

from __future__ import annotations

from pathlib import Path

from quantpipe.checkpoint.fetched import ChangedError, known_files, require_content
from quantpipe.checkpoint.names import CONFIG, SHARD_GLOB
from quantpipe.checkpoint.strict_json import load_object
from quantpipe.errors import PreflightError, VerificationError


def require_unchanged(snapshot: Path) -> None:
    """Compare config, tokenizer and all other small files with the hashes of the fetch.

    The weights are compared by the worker, tensor by tensor as it reads them.

    Raises:
        VerificationError: a file changed since it was fetched.
    """
    try:
        for path, hashes in known_files(snapshot):
            if hashes.tensors is None:
                require_content(snapshot, path, hashes)
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
    if load_object(snapshot / CONFIG).get("tie_word_embeddings"):
        raise PreflightError(
            "engine `stock` rotates tied embeddings twice, which loads and answers wrongly",
            where="quantize.rotate",
            hint="set `rotate: false`, or quantize a model whose embeddings are not tied",
        )
