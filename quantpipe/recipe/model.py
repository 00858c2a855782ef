"""Recipes: what to build. Frozen pydantic models of the YAML, and the digest of what decides the output.

How to run (store, interpreters, jobs, output mode) is not in here: that is settings.py. One file per section.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from quantpipe.digest import digest_of
from quantpipe.recipe.quality import Quality
from quantpipe.recipe.quantize import Quantize
from quantpipe.recipe.section import Section
from quantpipe.recipe.smoke import Smoke
from quantpipe.recipe.source import Source

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,99}$"


class Verify(Section):
    """The static checks.

    Attributes:
        target: the vllm-ascend version that will serve the checkpoint.
        deep: also check the values of the tensors, not only names, types and shapes.
    """

    target: str = Field(default="0.23.0", pattern=r"^\d+\.\d+\.\d+\w*$")
    deep: bool = True


class Publish(Section):
    """What stays in the store.

    Attributes:
        keep: generations of the checkpoint, the current one included; at least two, for a rollback.
    """

    keep: int = Field(default=2, ge=2)


class Recipe(Section):
    """One recipe, as `quantpipe.recipe.load.load` makes it: nothing that happens to a file later changes it.

    Attributes:
        name: names the checkpoint's folder in the store.
        source: where the BF16 weights come from.
        quantize: what msmodelslim does to them, and on which prompts.
        quality: how far the result may be from the BF16 model.
        verify: the static checks.
        smoke: the smoke load.
        publish: what stays in the store.
    """

    name: str = Field(pattern=NAME_PATTERN)
    source: Source
    quantize: Quantize
    quality: Quality = Field(default_factory=Quality)
    verify: Verify = Verify()
    smoke: Smoke = Smoke()
    publish: Publish = Publish()

    @model_validator(mode="after")
    def _engine_measures(self) -> Recipe:
        if self.quantize.engine == "stock" and (gates := self.quality.given()):
            raise ValueError(
                f"engine `stock` measures no quality: remove quality.{gates[0]}, or set engine to `streaming`"
            )
        return self

    def stage_inputs(self) -> dict[str, Any]:
        """What determines each stage's result, as JSON values by stage. Reads no files.

        Datasets and probe files count by content and not by path; so does a local
        source, whose content is in its manifest. Time limits, the number of generations and the
        section `quality`, which changes no bit, have no influence.
        """
        return {
            "fetch": self._source_input(),
            "quantize": self._quantize_input(),
            "verify": self.verify.model_dump(mode="json"),
            "smoke": self._smoke_input(),
            "publish": {},
        }

    def digest(self) -> str:
        """SHA-256, in hex, over what determines the output. Reads no files, and is the same on every host.

        If the recipe leaves the hub to the host, the digest contains just that; the key of the fetch stage
        contains the hub.
        """
        source = {**self._source_input(), "hub": self.source.named_hub}
        return digest_of({"fetch": source, "quantize": self._quantize_input()})

    def _source_input(self) -> dict[str, Any]:
        value = self.source.model_dump(mode="json")
        if self.source.hub == "local":
            del value["repo"]
        if not self.source.unverified:  # the digests of recipes that are older than the key stay as they are
            del value["unverified"]
        return value

    def _quantize_input(self) -> dict[str, Any]:
        quantize = self.quantize
        value = quantize.model_dump(mode="json")
        value["calibration"] = {"prompts": quantize.calibration.used().digest()}
        if quantize.anti_outlier is not None:
            value["anti_outlier"]["dataset"] = quantize.anti_outlier.dataset.digest()
        return value

    def _smoke_input(self) -> dict[str, Any]:
        value = self.smoke.model_dump(mode="json", exclude={"timeouts", "probes_file"})
        if not self.smoke.unverified:  # a later key: without it, receipts of 0.1.0 stay valid
            del value["unverified"]
        return value

    def calibration_prompts(self) -> tuple[str, ...]:
        """The prompts that decide the activation scales."""
        return self.quantize.calibration.used().prompts

    def anti_outlier_prompts(self) -> tuple[str, ...]:
        """The prompts that decide the smoothing; empty without an anti_outlier section."""
        section = self.quantize.anti_outlier
        return () if section is None else section.dataset.prompts
