"""The spec's processors: msmodelslim's, in our leaner or quicker form where there is one, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msmodelslim.core.base.protocol import BatchProcessRequest
from msmodelslim.processor.anti_outlier.flex_smooth.processor import FlexSmoothQuantProcessorConfig
from msmodelslim.processor.anti_outlier.iter_smooth.processor import IterSmoothProcessorConfig
from msmodelslim.processor.anti_outlier.smooth_base import BaseSmoothProcessor
from msmodelslim.processor.base import AutoSessionProcessor
from msmodelslim.processor.container.group import GroupProcessor, GroupProcessorConfig
from msmodelslim.processor.quant.linear import LinearProcessorConfig
from msmodelslim.processor.quarot.offline_quarot.quarot import QuaRotProcessor, QuaRotProcessorConfig
from msmodelslim.processor.quarot.offline_quarot.quarot_interface import get_rotate_command
from torch import nn

from quantpipe.quantize.worker.streaming import moe
from quantpipe.quantize.worker.streaming.linear import LeanLinearQuantProcessor
from quantpipe.quantize.worker.streaming.model import layer_name
from quantpipe.quantize.worker.streaming.passes import Passes
from quantpipe.quantize.worker.streaming.quick import QuickFlexSmoothProcessor
from quantpipe.quantize.worker.streaming.rotate import LeanQuaRotProcessor, QuickQuaRotProcessor
from quantpipe.quantize.worker.streaming.smooth import LeanFlexSmoothProcessor, TypedIterSmoothProcessor
from quantpipe.quantize.worker.streaming.steps import Steps

_EXACT: dict[type, Any] = {
    QuaRotProcessorConfig: LeanQuaRotProcessor,
    LinearProcessorConfig: LeanLinearQuantProcessor,
    FlexSmoothQuantProcessorConfig: LeanFlexSmoothProcessor,
    IterSmoothProcessorConfig: TypedIterSmoothProcessor,
}
_QUICK: dict[type, Any] = {
    **_EXACT,
    QuaRotProcessorConfig: QuickQuaRotProcessor,
    FlexSmoothQuantProcessorConfig: QuickFlexSmoothProcessor,
}


class Processors:
    """The spec's processors, in order.

    Args:
        configs: msmodelslim's configs of them.
        model: the skeleton.
        adapter: of adapters.adapter_for.
        exact: the bits of engine `stock`; False takes quick.py and factored.py.
        keep: called with each linear, and its full name, before it is quantized in place.
        steps: hears what is done.

    Attributes:
        seen: tokens of the calibration set that each expert of the last layer got; empty without experts.
    """

    def __init__(
        self,
        configs: Sequence[Any],
        model: nn.Module,
        adapter: Any,
        passes: Passes,
        *,
        exact: bool,
        keep: Callable[[str, nn.Linear], None] | None = None,
        steps: Steps,
    ) -> None:
        self._model, self._adapter, self._passes, self._keep = model, adapter, passes, keep
        self._steps = steps
        self.seen: list[int] = []
        self._kinds = _EXACT if exact else _QUICK
        self._processors = [self._processor(config) for config in configs]

    def _processor(self, config: Any) -> AutoSessionProcessor:
        if isinstance(config, GroupProcessorConfig):
            group = GroupProcessor.__new__(GroupProcessor)
            AutoSessionProcessor.__init__(group, self._model)
            group.processors = [self._processor(part) for part in config.configs]
            group.processor_names = [type(part).__name__ for part in group.processors]
            return group
        kind = self._kinds.get(type(config))
        if kind is not None:
            processor = kind(self._model, config, self._adapter)
            if isinstance(processor, LeanLinearQuantProcessor):
                processor.on_linear = self._steps.advance
                if self._keep is not None:
                    processor.keep = self._keep
            return processor
        return AutoSessionProcessor.from_config(self._model, config, self._adapter)

    def pre_run(self) -> None:
        """Before the first layer, with the embedding."""
        for processor in self._processors:
            processor.pre_run()

    def post_run(self) -> None:
        """After the last layer, with the final norm and lm_head."""
        for processor in self._processors:
            processor.post_run()

    def process(self, index: int, layer: nn.Module) -> None:
        """Put a layer through all processors, in place, and the calibration set through the layer."""
        request = BatchProcessRequest(name=layer_name(index), module=layer)
        for processor in self._processors:
            self._begin(processor, request)
            if isinstance(processor, QuaRotProcessor):
                self._map_rotations(processor, index, layer)
            if isinstance(processor, BaseSmoothProcessor):
                self._smooth(processor, index, request)
                continue
            processor.preprocess(request)
            if not processor.is_data_free():
                moe.take_counts(layer)  # of other passes
                self._steps.begin("calibrate", self._passes.prompts)
                self._passes.calibrate(layer, self._steps.advance)
                self.seen = moe.take_counts(layer)
            processor.postprocess(request)

    def _begin(self, processor: AutoSessionProcessor, request: BatchProcessRequest) -> None:
        """Report the processor's step."""
        if isinstance(processor, QuaRotProcessor):
            self._steps.begin("rotate")
        elif isinstance(processor, BaseSmoothProcessor):
            self._steps.begin("smooth")
        else:
            parts = processor.processors if isinstance(processor, GroupProcessor) else [processor]
            lean = (part for part in parts if isinstance(part, LeanLinearQuantProcessor))
            self._steps.begin("quantize", sum(part.count(request) for part in lean))

    def _map_rotations(self, processor: QuaRotProcessor, index: int, layer: nn.Module) -> None:
        config: QuaRotProcessorConfig = processor.config
        processor.fused_map.update(self._adapter.fuse_map_of_layer(index, layer))
        pairs = self._adapter.rotate_map_of_layer(index, layer, config.block_size)
        processor.rotate_commands.extend(get_rotate_command(pairs))

    def _smooth(self, processor: BaseSmoothProcessor, index: int, request: BatchProcessRequest) -> None:
        processor.global_adapter_config = self._adapter.subgraphs_of_layer(index, request.module)
        processor.preprocess(request)
        targets = [graph.mapping.targets[0] for graph in processor.adapter_config]
        self._passes.smooth(request.module, request.name, targets)
        processor.postprocess(request)
