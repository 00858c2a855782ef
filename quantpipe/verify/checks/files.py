"""Checks of the files as files: A6, A11, A12, B9 and C1."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator

from quantpipe.checkpoint.chat_template import has_chat_template
from quantpipe.checkpoint.checkpoint import Checkpoint
from quantpipe.checkpoint.index import Index
from quantpipe.checkpoint.names import CHAT_TEMPLATE, INDEX, TOKENIZER_CONFIG
from quantpipe.durable import TEMPORARY_PREFIX
from quantpipe.store.manifest import Mismatch
from quantpipe.verify.checks.needs import FILES, MANIFEST
from quantpipe.verify.checks.registry import check
from quantpipe.verify.examination import Examination
from quantpipe.verify.finding import Defect, Severity

_LEFTOVER = re.compile(r"-of-0+\.safetensors$|^\.tmp-|\.(incomplete|part|tmp)$")
_RANK_FOLDER = re.compile(r"^rank_\d+$")


@check(
    "A6",
    needs=FILES,
    effect="vLLM stops with 'Cannot find any model weights', or loads what a stale index names instead "
    "of the shards that exist",
    fix=f"copy the missing shard; remove {INDEX} only if it is left over from another model",
)
def foreign_index(examination: Examination) -> Iterator[Defect]:
    """The only index that vLLM reads, model.safetensors.index.json, names files that exist."""
    checkpoint = examination.checkpoint
    present = {header.shard for header in checkpoint.headers}
    for index in checkpoint.indexes:
        severity = Severity.ERROR if index.file == INDEX else Severity.WARNING
        for problem in index.problems:
            yield Defect(index.file, f"the index {problem}", severity=severity)
        missing = index.shards - present
        if index.file == INDEX and missing:
            yield Defect(index.file, "the index names missing shards", min(missing))


@check(
    "A11",
    needs=FILES,
    effect="the server does not start, has no chat endpoint, or cannot open the shards under another user id",
    fix="copy tokenizer and chat template from the source; chmod -R a+rX the directory",
)
def companions(examination: Examination) -> Iterator[Defect]:
    """Tokenizer and chat template exist, and other users can read the files."""
    checkpoint = examination.checkpoint
    names = set(checkpoint.names)
    if not names & {"tokenizer.json", "tokenizer.model", "vocab.json"}:
        yield Defect("tokenizer.json", "the tokenizer is missing")
    elif TOKENIZER_CONFIG not in names:
        yield Defect(TOKENIZER_CONFIG, "the tokenizer's config is missing")
    elif not has_chat_template(checkpoint.path):
        yield Defect(CHAT_TEMPLATE, "there is no chat template", severity=Severity.WARNING)
    if examination.sealing:
        return
    for name in checkpoint.names:
        path = checkpoint.path / name
        if path.is_file() and not path.stat().st_mode & stat.S_IROTH:
            text = "only the owner can read the file: a server under another user id cannot"
            yield Defect(name, text, severity=Severity.NOTE)


@check(
    "A12",
    needs=FILES,
    effect="loading fails in the safetensors reader, or reads bytes that belong to another tensor",
    fix="copy or quantize again; remove leftovers of an interrupted msmodelslim",
)
def sound_shards(examination: Examination) -> Iterator[Defect]:
    """Every shard is a whole, well-formed safetensors file, and no half-written file is left over."""
    checkpoint = examination.checkpoint
    for header in checkpoint.headers:
        for problem in header.problems:
            yield Defect(header.shard, f"the shard {_generic(problem)}", problem)
    for name in checkpoint.names:
        if _LEFTOVER.search(name) and not (examination.sealing and name.startswith(TEMPORARY_PREFIX)):
            yield Defect(name, "a half-written file is left over")
        if _RANK_FOLDER.match(name) and (checkpoint.path / name).is_dir():
            yield Defect(name, "a folder of a multi-device run is left over: its parts were not merged")


def _generic(problem: str) -> str:
    """The words of a header's problem that do not change from file to file."""
    for word in (
        "truncated",
        "overlap",
        "belong to no tensor",
        "declares a header",
        "cannot be read",
        "needs",
    ):
        if word in problem:
            return {
                "truncated": "is truncated",
                "overlap": "has tensors that overlap",
                "belong to no tensor": "has bytes that belong to no tensor",
                "declares a header": "has a header of impossible size",
                "cannot be read": "cannot be read",
                "needs": "has a tensor whose range does not fit its dtype and shape",
            }[word]
    return "is not a well-formed safetensors file"


@check(
    "B9",
    needs=FILES,
    effect="vLLM loads every *.safetensors in the directory (or those of its index), the last one wins: "
    "int8 weights become 0 or stale, without an error",
    fix="remove the shards that do not belong to the quantized model, and their index",
)
def one_set_of_shards(examination: Examination) -> Iterator[Defect]:
    """Each tensor is in one shard, indexes match the headers, and no BF16 shards are left over."""
    checkpoint = examination.checkpoint
    for shards in sorted({tuple(shards) for shards in checkpoint.repeated.values()}):
        yield Defect(" and ".join(shards), "shards hold the same tensors", severity=Severity.ERROR)
    for header in checkpoint.headers:
        if header.trailing:
            yield Defect(
                header.shard, "the file has extra bytes after its last tensor", f"{header.trailing:,} bytes"
            )
    if not checkpoint.repeated:
        for index in checkpoint.indexes:
            yield from _index_differences(checkpoint, index)


def _index_differences(checkpoint: Checkpoint, index: Index) -> Iterator[Defect]:
    """Where an index and the headers disagree; a tensor that is nowhere is B1's."""
    if index.problems or (index.file == INDEX and index.shards - {h.shard for h in checkpoint.headers}):
        return
    severity = Severity.ERROR if index.file == INDEX else Severity.WARNING
    for name, tensor in checkpoint.tensors.items():
        shard = index.weight_map.get(name)
        if shard is None:
            yield Defect(name, f"a tensor is in a shard but not in {index.file}", severity=severity)
        elif shard != tensor.shard:
            yield Defect(name, f"a tensor is in another shard than {index.file} says", severity=severity)


@check(
    "C1",
    needs=MANIFEST,
    effect="bytes changed after the checkpoint was made: what is served is not what was verified",
    fix="restore the files, or quantize again; never edit a checkpoint in place",
)
def as_in_manifest(mismatches: tuple[Mismatch, ...]) -> Iterator[Defect]:
    """Every file matches the manifest."""
    for mismatch in mismatches:
        yield Defect(mismatch.path, _manifest_text(mismatch.problem), mismatch.problem)


def _manifest_text(problem: str) -> str:
    if problem.startswith("has"):
        return "the file differs from its manifest"
    return f"the file {problem}" + ("" if "manifest" in problem else " though the manifest names it")
