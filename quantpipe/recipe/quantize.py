"""The quantize section of a recipe: what msmodelslim does to the weights, and on which prompts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from quantpipe.recipe.files import Dataset, Prompts
from quantpipe.recipe.section import Section


class AntiOutlier(Section):
    """Smoothing: moves outliers of activations into the weights before quantizing.

    Attributes:
        method: `flex_smooth_quant` is msmodelslim's m6, `iter_smooth` its m4.
        dataset: prompts whose activations decide the smoothing scales.
    """

    method: Literal["flex_smooth_quant", "iter_smooth", "none"] = "flex_smooth_quant"
    dataset: Dataset


class Calibration(Section):
    """The static activation scales come from these prompts.

    Attributes:
        dataset: JSON or JSONL of prompts (calib_data/README.md).
        limit: only the first N prompts; None takes all.
    """

    dataset: Dataset
    limit: int | None = Field(default=None, ge=1)

    def used(self) -> Prompts:
        """The dataset without what is beyond the limit."""
        return Prompts(self.dataset.path, self.dataset.prompts[: self.limit])


class Quantize(Section):
    """What msmodelslim does to the weights.

    Attributes:
        engine: `streaming` works layer by layer from disk and resumes after an interruption; `stock` is
            msmodelslim's own V1 service, which holds the whole model in memory.
        exact: the bits of engine `stock`. False lets engine `streaming` use faster arithmetic, for
            hosts without an NPU (docs/streaming.md says how much may differ).
        scheme: `w8a8_dynamic`: attention W8A8 static, experts and MLP W8A8_DYNAMIC, the rest FLOAT.
        rotate: first rotate the residual stream with a random Hadamard matrix (QuaRot).
        anti_outlier: the smoothing; none without the section.
        calibration: the prompts for the static activation scales.
        device: `cpu`, `npu`, or a list of devices such as `npu:0,1`.
        threads: CPU threads; a fixed number makes the result independent of the host's number of cores,
            since it determines how sums are split. None uses all cores.
        part_size: largest size of one shard, GiB.
        trust_remote_code: whether the model's own Python code may run.
    """

    engine: Literal["streaming", "stock"] = "streaming"
    exact: bool = True
    scheme: Literal["w8a8_dynamic"] = "w8a8_dynamic"
    rotate: bool = True
    anti_outlier: AntiOutlier | None = None
    calibration: Calibration
    device: str = Field(default="npu", pattern=r"^(cpu|npu(:\d+(,\d+)*)?)$")
    threads: int | None = Field(default=None, ge=1)
    part_size: int = Field(default=4, ge=1, le=64)
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _engine_can(self) -> Quantize:
        if self.engine == "stock" and not self.exact:
            raise ValueError("engine `stock` is always exact: set engine to `streaming`, or remove `exact`")
        if self.engine == "streaming" and "," in self.device:
            raise ValueError("engine `streaming` uses one device: give one, or set engine to `stock`")
        return self
