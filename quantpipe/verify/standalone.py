"""What `quantpipe verify` does with its options; the command itself, in cli/, parses and prints."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from quantpipe import __version__, durable
from quantpipe.checkpoint.layout import GIB, Layout, layout_of_serve
from quantpipe.console import Console
from quantpipe.errors import UsageError, VerificationError
from quantpipe.recipe.model import Recipe
from quantpipe.store import manifest
from quantpipe.store.manifest import PROVENANCE, Manifest
from quantpipe.store.store import Store
from quantpipe.text import now
from quantpipe.verify.report import Report
from quantpipe.verify.verify import verify_checkpoint

_TARGET = re.compile(r"(?:vllm-ascend==)?(main|\d+\.\d+\.\d+\w*)")


@dataclass(frozen=True)
class Options:
    """The options of `quantpipe verify`; None where not given.

    Attributes:
        recipe: gives target and serve profile, where flags do not.
        device_memory: GiB of one device.
        hashes: compare the files with the manifest, where there is one.
        write_manifest: give a checkpoint without manifest one, if it passes.
    """

    recipe: Recipe | None = None
    against: Path | None = None
    tp: int | None = None
    dp: int | None = None
    ep: bool = False
    target: str | None = None
    device_memory: float | None = None
    deep: bool = False
    hashes: bool = True
    write_manifest: bool = False
    jobs: int = 2


def verify(
    path: Path | str,
    *,
    recipe: Recipe | None = None,
    against: Path | str | None = None,
    tp: int | None = None,
    dp: int | None = None,
    ep: bool = False,
    target: str | None = None,
    device_memory: float | None = None,
    deep: bool = False,
    hashes: bool = True,
    write_manifest: bool = False,
    jobs: int = 2,
    console: Console | None = None,
) -> Report:
    """Verify any checkpoint directory, whoever made it: `quantpipe.verify(path)`, as the command does.

    Args:
        recipe: gives target and serve profile, where arguments do not.
        against: directory of the BF16 source: compare the weights with it.
        tp, dp, ep: the parallel layout of the server.
        target: the vllm-ascend version that has to load it, such as `0.23.0`.
        device_memory: GiB of one device.
        deep: read all values, not only headers.
        hashes: compare the files with the manifest, where there is one.
        write_manifest: give a checkpoint without manifest one, if it passes.
        jobs: shards read at a time.
        console: where progress goes; nowhere without one.

    Raises:
        UsageError: an argument makes no sense, or the path is not a directory.
        VerificationError: it cannot be read. Findings do not raise: see `Report.ok`.
    """
    source = None if against is None else Path(against)
    options = Options(recipe, source, tp, dp, ep, target, device_memory, deep, hashes, write_manifest, jobs)
    return run_verify(Path(path), options, console or Console("quiet"))


def run_verify(path: Path, options: Options, console: Console) -> Report:
    """Verify any checkpoint directory, whoever made it.

    Raises:
        UsageError: an option makes no sense, or the path is not a directory.
        VerificationError: it cannot be read. Findings do not raise: they are in the report.
    """
    if not path.is_dir():
        raise UsageError("no such directory", where=str(path), hint="pass a checkpoint directory")
    known = _manifest(path)
    checked = known if options.hashes else None
    size = sum(file.stat().st_size for file in path.glob("*") if file.is_file())
    reads = options.deep or checked is not None
    with console.progress("verify", size if reads else 0, unit="B") as progress:
        report = verify_checkpoint(
            path,
            target=target_of(options),
            deep=options.deep,
            against=options.against,
            layout=layout_of(options),
            jobs=options.jobs,
            on_bytes=progress.advance,
            manifest=checked,
        )
    if options.write_manifest and known is None and report.ok:
        _write_manifest(path, options.jobs, console)
    return report


def target_of(options: Options) -> str:
    """The vllm-ascend version: of the flag, of the recipe, or the default.

    Raises:
        UsageError: it is not a version.
    """
    if options.target is None:
        return options.recipe.verify.target if options.recipe else "0.23.0"
    found = _TARGET.fullmatch(options.target)
    if not found:
        raise UsageError(
            f"{options.target!r} is not a version of vllm-ascend",
            where="--target",
            hint="such as --target vllm-ascend==0.23.0",
        )
    return found.group(1)


def layout_of(options: Options) -> Layout | None:
    """The layout of the flags over that of the recipe's serve profile; None where neither says anything."""
    memory = None if options.device_memory is None else int(options.device_memory * GIB)
    if options.recipe is not None:
        layout = layout_of_serve(options.recipe.smoke.serve, device_memory=memory)
    elif options.tp or options.dp or options.ep or memory:
        layout = Layout(device_memory=memory)
    else:
        return None
    return replace(layout, tp=options.tp or layout.tp, dp=options.dp or layout.dp, ep=options.ep or layout.ep)


def _manifest(path: Path) -> Manifest | None:
    """The manifest in the checkpoint's provenance; None where quantpipe did not make it.

    Raises:
        VerificationError: there is one, and it cannot be read.
    """
    provenance = Store(path).provenance(path)
    if provenance is None:
        if (path / PROVENANCE).is_file():
            raise VerificationError("not an object", where=str(path / PROVENANCE), hint="remove the file")
        return None
    return Manifest.from_json(provenance.get("manifest"), where=str(path / PROVENANCE))


def _write_manifest(path: Path, jobs: int, console: Console) -> None:
    content = manifest.build(path, jobs=jobs, exclude=(PROVENANCE,))
    value = {"format": 1, "created": now(), "quantpipe": __version__, "manifest": content.to_json()}
    durable.write_json(path / PROVENANCE, value)
    console.line(f"wrote {path / PROVENANCE}: {len(content.entries)} files, digest {content.digest()[:12]}")
