"""The order of the work: embedding, decoder layers, head; each a unit, finished before the next begins."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
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

from quantpipe.quantize.worker import device
from quantpipe.quantize.worker.streaming import batched, moe
from quantpipe.quantize.worker.streaming import model as models
from quantpipe.quantize.worker.streaming.linear import LeanLinearQuantProcessor
from quantpipe.quantize.worker.streaming.model import EMBEDDING, HEAD, NORM, Inputs, layer_name
from quantpipe.quantize.worker.streaming.quick import QuickFlexSmoothProcessor
from quantpipe.quantize.worker.streaming.rotate import LeanQuaRotProcessor, QuickQuaRotProcessor
from quantpipe.quantize.worker.streaming.saver import UnitSaver
from quantpipe.quantize.worker.streaming.smooth import LeanFlexSmoothProcessor, TypedIterSmoothProcessor
from quantpipe.quantize.worker.streaming.state import State
from quantpipe.quantize.worker.streaming.weights import Memory, Prefetch, Weights

SMOOTHING, CALIBRATION = "smoothing", "calibration"


@dataclass
class Chain:
    """A dataset on its way through the layers.

    Attributes:
        prompts: [ids, attention mask] of each prompt.
        inputs: what the next layer is called with, for each prompt.
    """

    prompts: Sequence[Sequence[torch.Tensor]]
    inputs: list[Inputs] = field(default_factory=list)


class StopForward(Exception):  # noqa: N818  (no error: all that was wanted has been seen)
    """Ends a forward pass behind the last module whose input is wanted."""


class Runner:
    """One quantization, from wherever `state` got to.

    Args:
        adapter: of models.adapter_for.
        processors: the spec's, as msmodelslim's configs, in order.
        chains: the datasets by role; CALIBRATION always, SMOOTHING where that is another one.
        on_layer: told of each decoder layer that begins, counted from 1.
        stop: asked before each unit whether to stop there.
        place: the device on which layers are worked at.
        exact: the bits of engine `stock`; False takes quick.py and batched.py.
    """

    def __init__(
        self,
        adapter: Any,
        weights: Weights,
        state: State,
        processors: Sequence[Any],
        saver: Callable[[nn.Module], UnitSaver],
        chains: Mapping[str, Chain],
        *,
        on_layer: Callable[[int], None],
        stop: Callable[[], bool],
        place: torch.device,
        exact: bool = True,
    ) -> None:
        self.adapter, self.weights, self.state, self.chains = adapter, weights, state, dict(chains)
        self.on_layer, self.stop, self.place, self.exact = on_layer, stop, place, exact
        adapter.with_embedding = not state.units
        self.model = adapter.skeleton()
        self.tied = bool(adapter.config.tie_word_embeddings)
        self.layers = int(adapter.config.num_hidden_layers)
        self.saver = saver(self.model)
        self.processors = [self._processor(config) for config in processors]

    def _processor(self, config: Any) -> AutoSessionProcessor:
        """msmodelslim's processor for a config, in our lean form where there is one."""
        if isinstance(config, GroupProcessorConfig):
            group = GroupProcessor.__new__(GroupProcessor)
            AutoSessionProcessor.__init__(group, self.model)
            group.processors = [self._processor(part) for part in config.configs]
            group.processor_names = [type(part).__name__ for part in group.processors]
            return group
        flex = LeanFlexSmoothProcessor if self.exact else QuickFlexSmoothProcessor
        rotation = LeanQuaRotProcessor if self.exact else QuickQuaRotProcessor
        lean = {
            QuaRotProcessorConfig: rotation,
            LinearProcessorConfig: LeanLinearQuantProcessor,
            FlexSmoothQuantProcessorConfig: flex,
            IterSmoothProcessorConfig: TypedIterSmoothProcessor,
        }.get(type(config))
        if lean is not None:
            return lean(self.model, config, self.adapter)
        return AutoSessionProcessor.from_config(self.model, config, self.adapter)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def run(self) -> bool:
        """Do the units that are not done yet; False where `stop` ended it before the last."""
        if self.state.units:
            self.saver.restore(self.state.units[-1].saver)
        if len(self.state.units) == self.layers + 2:
            return True
        # What the libraries hold lives for ever: collections that need not look at it take no time. Those
        # behind each unit are enough.
        gc.collect()
        gc.freeze()
        gc.disable()
        return self._all_layers() and self._head()

    def _all_layers(self) -> bool:
        """All that comes before the head. Memory that layers lie in goes with this call's end."""
        first = max(len(self.state.units) - 1, 0)
        names = [f"{layer_name(index)}." for index in range(first, self.layers)]
        read = functools.partial(self.weights.read_prefix, allocate=Memory().take)
        with Prefetch(read, names) as ahead:
            self._begin()
            return self._layers(ahead)

    def _begin(self) -> None:
        """All that comes before the first layer that is to be done."""
        if not self.state.units:
            self._load_embedding()
        for processor in self.processors:
            processor.pre_run()
        if not self.state.units:
            self._embedding()
        else:
            self._resume()

    # -- units -----------------------------------------------------------------------------------

    def _load_embedding(self) -> None:
        tensors = device.move(models.read_embedding(self.weights), self.place)
        models.fill(self.model.get_submodule(EMBEDDING), tensors, EMBEDDING, self.model.dtype)

    def _embedding(self) -> None:
        embedding = self.model.get_submodule(EMBEDDING)
        for chain in self.chains.values():
            for ids, mask in chain.prompts:
                there = device.move({"ids": ids, "mask": mask}, self.place)
                hidden = embedding(there["ids"])
                chain.inputs.append(self.adapter.capture(self.model, hidden, there["mask"]))
        self.saver.save_module(EMBEDDING, embedding)
        self._commit()
        embedding.to("meta")

    def _resume(self) -> None:
        """The inputs as they were, with keyword arguments made anew: those follow from the prompts alone."""
        hidden = self.state.boundary()
        for role, chain in self.chains.items():
            for number, (_, mask) in enumerate(chain.prompts):
                states = hidden.get(_key(role, number))
                if states is not None:  # behind the last layer there are none
                    there = device.move({"states": states, "mask": mask}, self.place)
                    chain.inputs.append(self.adapter.capture(self.model, there["states"], there["mask"]))

    def _layers(self, ahead: Prefetch) -> bool:
        for index in range(len(self.state.units) - 1, self.layers):
            if self.stop():
                return False
            self.on_layer(index + 1)
            self._layer(index, ahead.take())
        return not self.stop()

    def _layer(self, index: int, tensors: dict[str, torch.Tensor]) -> None:
        layer = self.adapter.new_layer(self.model, index, device.move(tensors, self.place))
        tensors.clear()
        moe.speed_up(layer)
        request = BatchProcessRequest(name=layer_name(index), module=layer)
        for processor in self.processors:
            self._process(processor, index, request)
        self.saver.save_module(request.name, layer)
        self.adapter.drop_layer(self.model)
        del layer, request
        self._commit()

    def _head(self) -> bool:
        norm, head = self.model.get_submodule(NORM), self.model.get_submodule(HEAD)
        of_norm = device.move(self.weights.read_prefix(f"{NORM}."), self.place)
        of_head = device.move(models.read_head(self.weights, self.tied), self.place)
        models.fill(norm, of_norm, NORM, self.model.dtype)
        models.fill(head, of_head, HEAD, self.model.dtype)
        for processor in self.processors:
            processor.post_run()
        self.saver.save_module(NORM, norm)
        self.saver.save_module(HEAD, head)
        self._commit()
        return True

    # -- one layer -------------------------------------------------------------------------------

    def _process(self, processor: AutoSessionProcessor, index: int, request: BatchProcessRequest) -> None:
        if isinstance(processor, QuaRotProcessor):
            self._name_rotations(processor, index, request.module)
        if isinstance(processor, BaseSmoothProcessor):
            processor.global_adapter_config = self.adapter.subgraphs_of_layer(index, request.module)
            self._smooth(processor, request)
            return
        processor.preprocess(request)
        if not processor.is_data_free():
            self._forward(self.chains[CALIBRATION], request.module)
        processor.postprocess(request)

    def _name_rotations(self, processor: QuaRotProcessor, index: int, layer: nn.Module) -> None:
        config: QuaRotProcessorConfig = processor.config
        processor.fused_map.update(self.adapter.fuse_map_of_layer(index, layer))
        pairs = self.adapter.rotate_map_of_layer(index, layer, config.block_size)
        processor.rotate_commands.extend(get_rotate_command(pairs))

    def _smooth(self, processor: BaseSmoothProcessor, request: BatchProcessRequest) -> None:
        """Statistics from the smoothing set, which sees the layer before it is smoothed and quantized.

        Where both roles have one dataset, its way goes through the quantized layer, as in msmodelslim's V1,
        and what a forward pass here would give is not needed: it ends at the last module that is watched.
        """
        processor.preprocess(request)
        if SMOOTHING in self.chains:
            self._forward(self.chains[SMOOTHING], request.module)
        else:
            targets = [graph.mapping.targets[0] for graph in processor.adapter_config]
            self._watch(request.module, request.name, targets)
        processor.postprocess(request)

    def _watch(self, layer: nn.Module, name: str, targets: Sequence[str]) -> None:
        """Run the calibration set up to the last target; all of the layer where experts are among them."""
        left: set[str] = set()

        def reached(target: str) -> Callable[..., None]:
            def hook(module: nn.Module, given: object, result: object) -> None:
                left.discard(target)
                if not left:
                    raise StopForward

            return hook

        handles = []
        if targets and not any(".experts." in target for target in targets):
            for target in targets:
                below = layer.get_submodule(target.removeprefix(f"{name}."))
                handles.append(below.register_forward_hook(reached(target)))
        if len(handles) == 1:  # its input is all that is looked at: no need for the product
            below.forward = lambda given: given
        try:
            for hidden, keywords in self.chains[CALIBRATION].inputs if targets else ():
                left.update(targets)
                try:
                    layer(hidden, **keywords)
                except StopForward:
                    continue
        finally:
            for handle in handles:
                handle.remove()
            if len(handles) == 1:
                del below.forward

    def _forward(self, chain: Chain, layer: nn.Module) -> None:
        if not self.exact and not _is_watched(layer):
            states = batched.forward(layer, chain.inputs)
            chain.inputs = [(s, given) for s, (_, given) in zip(states, chain.inputs, strict=True)]
            return
        for number, (hidden, keywords) in enumerate(chain.inputs):
            result = layer(hidden, **keywords)
            chain.inputs[number] = (result[0] if isinstance(result, tuple) else result), keywords

    def _commit(self) -> None:
        index = len(self.state.units)
        written, entries = self.saver.write_unit(index)
        hidden = {
            _key(role, number): states
            for role, chain in self.chains.items()
            for number, (states, _) in enumerate(chain.inputs)
        }
        needed = index <= self.layers  # nothing comes behind the head
        self.state.commit(written, entries, self.saver.figures(), hidden if needed else None)
        gc.collect()
        device.release(self.place)


def _is_watched(layer: nn.Module) -> bool:
    """Whether a processor watches linears, which a batched pass does not call one by one."""
    return any(module._forward_hooks for module in layer.modules())


def _key(role: str, number: int) -> str:
    return f"{role}.{number:05d}"
