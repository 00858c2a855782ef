"""The verify stage: what was just written is read back, checked, and sealed under its digest."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantpipe import __version__
from quantpipe.checkpoint.layout import GIB, Layout, layout_of_serve
from quantpipe.errors import VerificationError
from quantpipe.stage import Context, StageName, StageResult, VerifyPlan, digest_of
from quantpipe.store.damaged import mark, unmark
from quantpipe.store.manifest import CARD, Manifest, Mismatch, check
from quantpipe.store.outputs import VerifyFigures, VerifyOutput
from quantpipe.store.receipt import VerifyReceipt
from quantpipe.store.sealed import glance_at_sealed, record_verified
from quantpipe.store.stamps import Stamps
from quantpipe.text import human_bytes, now

if TYPE_CHECKING:
    from quantpipe.verify.report import Report


CardOf = Callable[[Context, Path, "Report"], str]
"""Makes a model card: of a run, the directory that was verified, and what was found there."""


class VerifyStage:
    """Checks the staging directory and makes it a generation.

    Args:
        card: makes the model card that is sealed with the checkpoint; None for none.
    """

    name: StageName = "verify"

    def __init__(self, card: CardOf | None = None) -> None:
        self._card_of = card

    def key(self, context: Context) -> str:
        """Digest of the verify section and layout, of the quantize receipt's key and of what it wrote."""
        return digest_of(
            {
                "verify": context.recipe.stage_inputs()["verify"],
                "layout": asdict(_layout(context)),
                "quantize": context.receipts.quantize.key,
                "manifest": context.quantize.manifest.digest(),
            }
        )

    def plan(self, context: Context) -> VerifyPlan:
        """One pass over the checkpoint's bytes; nothing is added to the store."""
        size = _planned_bytes(context)
        deep = "every value" if context.recipe.verify.deep else "headers"
        amount = f"{human_bytes(size)} " if size else ""
        return VerifyPlan(
            stage=self.name,
            action="run",
            summary=f"read {amount}back, compare with the manifest, check {deep} for vllm-ascend "
            f"{context.recipe.verify.target}",
            read_bytes=size,
        )

    def preflight(self, context: Context) -> None:
        """The checks need nothing but what the core needs anyway."""

    def run(self, context: Context) -> StageResult[VerifyOutput, VerifyFigures]:
        """Check and seal.

        If an intact generation of this digest exists, it is what would be sealed: it is checked instead.
        One that was damaged after it was sealed is replaced.

        Raises:
            VerificationError: a file or a tensor is not what it has to be; nothing is sealed.
        """
        manifest = context.quantize.manifest
        digest = manifest.digest()
        staging = context.store.absolute(context.quantize.checkpoint)
        sealed = context.store.generation(context.recipe.name, digest)
        damage = _damage(context, sealed, manifest) if sealed.is_dir() else None
        if damage:  # so that a run whose staging is gone does not end here for ever
            mark(sealed, damage)
        began = context.store.clock()
        if damage == [] or (damage and not staging.is_dir()):
            report = self._verify(context, sealed, manifest)
            shutil.rmtree(staging, ignore_errors=True)
        else:
            before = Stamps.of(staging) if staging.is_dir() else None
            report = self._verify(context, staging, manifest)
            card = self._card(context, staging, report)
            sealed = self._seal(context, staging, manifest, damage or [], before, card)
        unmark(sealed)
        record_verified(sealed, manifest, began)
        outputs = VerifyOutput(context.store.relative(sealed), digest)
        figures = VerifyFigures(
            bytes=manifest.total_bytes,
            tensors=report.figures["tensors"],
            findings=report.counts(),
            report={**report.to_json(), "path": outputs.checkpoint},
        )
        summary = (
            f"{len(report.passed)} checks passed on {report.figures['tensors']} tensors, sealed {digest[:12]}"
        )
        return StageResult(outputs, figures, summary)

    def still_there(self, context: Context, receipt: VerifyReceipt) -> bool:
        """Whether the generation has all of its files, by name and size, and no copy waits in staging."""
        fresh = context.store.absolute(context.quantize.checkpoint)
        return not fresh.is_dir() and not glance_at_sealed(context.store.absolute(receipt.outputs.checkpoint))

    def _seal(
        self,
        context: Context,
        staging: Path,
        manifest: Manifest,
        damage: Sequence[Mismatch],
        verified: Stamps | None,
        card: str | None,
    ) -> Path:
        """Seal what was verified, also in the place of a generation that was damaged after it was sealed."""
        name, digest = context.recipe.name, manifest.digest()
        provenance = _provenance(context, manifest)
        sealed = context.store.seal(
            staging, name, digest, provenance, replace=bool(damage), verified=verified, card=card
        )
        if damage:
            context.console.warning(
                f"generation {digest[:12]} was damaged after it was sealed: {damage[0].path} "
                f"{damage[0].problem}. A new copy replaced it; `quantpipe prune` lists the damaged one"
            )
        return sealed

    def _card(self, context: Context, staging: Path, report: Report) -> str | None:
        """None where there is none to write: a card that fails is no reason to lose a verified checkpoint."""
        if self._card_of is None or CARD not in context.quantize.manifest.beside():
            return None
        try:
            return self._card_of(context, staging, report)
        except Exception as error:
            context.console.warning(f"there is no model card: {type(error).__name__}: {error}")
            return None

    def _verify(self, context: Context, place: Path, manifest: Manifest) -> Report:
        # numpy only when there is something to verify: a no-op refresh stays quick.
        from quantpipe.verify.verify import verify_checkpoint

        recipe = context.recipe
        with context.console.progress("verify", manifest.total_bytes, unit="B") as progress:
            report = verify_checkpoint(
                place,
                target=recipe.verify.target,
                deep=recipe.verify.deep,
                layout=_layout(context),
                jobs=context.settings.jobs,
                on_bytes=progress.advance,
                manifest=manifest,
                sealing=True,
            )
        for finding in report.findings:
            context.console.event("finding", **finding.to_json())
        if not report.ok:
            raise _failure(report)
        for finding in report.findings:
            context.console.warning(finding.line())
        return report


def _layout(context: Context) -> Layout:
    smoke = context.recipe.smoke
    on_npus = smoke.launcher in ("native", "docker", "podman")
    memory = int(smoke.device_memory * GIB) if on_npus else None
    return layout_of_serve(smoke.serve, device_memory=memory)


def _failure(report: Report) -> VerificationError:
    first = report.errors[0]
    return VerificationError(
        f"{first.id}: {first.text}",
        where=first.where[0] if first.where else str(report.path),
        hint=f"{first.fix}; `--force quantize` makes the checkpoint again",
        details=report.lines(),
    )


def _damage(context: Context, sealed: Path, manifest: Manifest) -> list[Mismatch]:
    """How an existing generation of this name differs from its manifest."""
    with context.console.progress("compare", manifest.total_bytes, unit="B") as progress:
        return check(
            sealed,
            manifest,
            jobs=context.settings.jobs,
            exclude=manifest.beside(),
            on_bytes=progress.advance,
        )


def _planned_bytes(context: Context) -> int:
    """What the quantize receipt or, before it exists, its plan says."""
    if "quantize" in context.receipts:
        return context.quantize.manifest.total_bytes
    return context.plans.quantize.checkpoint_bytes if "quantize" in context.plans else 0


def _provenance(context: Context, manifest: Manifest) -> dict[str, Any]:
    recipe = context.recipe
    # Only where the recipe says so; provenance is written before the smoke load.
    accepted = {"smoke": {"unverified": True}} if recipe.smoke.unverified else {}
    return {
        "format": 1,
        "recipe": {"name": recipe.name, "digest": recipe.digest()},
        "source": {
            "hub": recipe.source.hub,
            "repo": recipe.source.repo,
            "commit": context.fetch.commit,
            **_unverified(context),
        },
        "run": context.run.id,
        "created": now(),
        "quantpipe": __version__,
        "versions": context.receipts.quantize.figures.versions,
        **accepted,
        "manifest": manifest.to_json(),
    }


def _unverified(context: Context) -> dict[str, list[str]]:
    """The files of the source for which the hub listed no hash; nothing where there are none, as usual."""
    files = context.receipts.fetch.figures.unverified
    return {"unverified": list(files)} if files else {}
