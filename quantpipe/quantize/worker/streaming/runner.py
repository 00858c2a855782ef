"""The order of the work: embedding, decoder layers, head; each a unit, finished before the next begins."""

from __future__ import annotations

import copy
import functools
import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from quantpipe.quantize.worker import device
from quantpipe.quantize.worker.streaming import model as models
from quantpipe.quantize.worker.streaming import moe
from quantpipe.quantize.worker.streaming.memory import PagePool
from quantpipe.quantize.worker.streaming.model import EMBEDDING, HEAD, NORM, layer_name
from quantpipe.quantize.worker.streaming.passes import Passes
from quantpipe.quantize.worker.streaming.prefetch import Prefetch
from quantpipe.quantize.worker.streaming.processors import Processors
from quantpipe.quantize.worker.streaming.quality.meter import Meter, Reached
from quantpipe.quantize.worker.streaming.saver import UnitSaver
from quantpipe.quantize.worker.streaming.state import State
from quantpipe.quantize.worker.streaming.steps import Steps
from quantpipe.quantize.worker.streaming.weights import Weights


@dataclass(frozen=True)
class Runner:
    """One quantization, from wherever `state` is.

    Attributes:
        model: the skeleton.
        tied: whether lm_head is the embedding.
        on_layer: called with each decoder layer that begins, counted from 1.
        stop: called before each unit: whether to stop there.
        place: the device on which layers are processed.
        steps: hears what is done within a layer.
        meter: measures the quality; None where nobody wants it.
    """

    model: Any
    weights: Weights
    state: State
    processors: Processors
    passes: Passes
    saver: UnitSaver
    tied: bool
    on_layer: Callable[[int], None]
    stop: Callable[[], bool]
    place: torch.device
    steps: Steps
    meter: Meter | None = None

    @property
    def layers(self) -> int:
        """Decoder layers of the model."""
        return int(self.model.config.num_hidden_layers)

    @property
    def units(self) -> int:
        """The embedding, the layers and the head."""
        return self.layers + 2

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def run(self) -> bool:
        """Do the units that are not done yet; False where `stop` ended it before the last."""
        if self.state.units:
            self.saver.restore(self.state.units[-1].saver)
        if len(self.state.units) == self.units:
            return True
        # Objects of the libraries live for ever: a collection that skips them takes no time. One collection
        # after each unit is enough.
        gc.collect()
        gc.freeze()
        gc.disable()
        return self._all_layers() and self._head()

    def _all_layers(self) -> bool:
        """The embedding and the layers. The memory of the layers is freed at the end of this call."""
        first = max(len(self.state.units) - 1, 0)
        names = [f"{layer_name(index)}." for index in range(first, self.layers)]
        read = functools.partial(self.weights.read_prefix, allocate=PagePool().take)
        with Prefetch(read, names) as ahead:
            self._begin()
            return self._layers(ahead)

    def _begin(self) -> None:
        """All that comes before the first layer that is to be done."""
        if self.state.units:
            self.processors.pre_run()
            boundary = self.state.boundary()
            self.passes.resume(self.model, boundary)
            if self.meter is not None:
                self.meter.resume(self.model, boundary)
            return
        self._fill(EMBEDDING, models.read_embedding(self.weights))
        if self.meter is not None:
            self.meter.enter(self.model)
        self.processors.pre_run()
        self.passes.embed(self.model)
        embedding = self.model.get_submodule(EMBEDDING)
        self.saver.save_module(EMBEDDING, embedding)
        self._commit(None if self.meter is None else self.meter.enter_quantized(self.model))
        embedding.to("meta")

    def _layers(self, ahead: Prefetch) -> bool:
        for index in range(len(self.state.units) - 1, self.layers):
            if self.stop():
                return False
            self.on_layer(index + 1)
            self._layer(index, ahead.take())
        return not self.stop()

    def _layer(self, index: int, tensors: dict[str, torch.Tensor]) -> None:
        layer = models.new_layer(self.model, index, device.move(tensors, self.place))
        tensors.clear()
        moe.speed_up(layer)
        given = None if self.meter is None else self._measured_before(self.meter, layer)
        self.processors.process(index, layer)
        self.saver.save_module(layer_name(index), layer)
        models.drop_layer(self.model)
        del layer
        self._commit(None if given is None else self._measured(index, given))

    def _measured_before(self, meter: Meter, layer: nn.Module) -> torch.Tensor:
        self.steps.begin("measure")
        return meter.reference(layer)

    def _measured(self, index: int, given: torch.Tensor) -> dict[str, Any]:
        """The figures of a layer whose tensors are ready to be written."""
        assert self.meter is not None
        self.steps.begin("measure")
        calibrated = Reached(self.passes.tokens, tuple(self.processors.seen))
        return self.meter.quantized(self.model, index, given, *self.saver.unit(), calibrated)

    def _head(self) -> bool:
        norm = self._fill(NORM, self.weights.read_prefix(f"{NORM}."))
        head = self._fill(HEAD, models.read_head(self.weights, self.tied))
        self.processors.post_run()
        self.saver.save_module(NORM, norm)
        self.saver.save_module(HEAD, head)
        self._commit(None if self.meter is None else self._measured_logits(self.meter, norm, head))
        return True

    def _measured_logits(self, meter: Meter, norm: nn.Module, head: nn.Module) -> dict[str, Any]:
        """Of norm and head as they are written; as they were read, they are read again."""
        read = {
            NORM: (norm, self.weights.read_prefix(f"{NORM}.")),
            HEAD: (head, models.read_head(self.weights, self.tied)),
        }
        original = []
        for name, (module, tensors) in read.items():
            twin = copy.copy(module)
            twin._parameters = dict(module._parameters)
            models.fill(twin, device.move(tensors, self.place), name, self.model.dtype)
            original.append(twin)
        return meter.logits(original, (norm, head))

    def _fill(self, name: str, tensors: dict[str, torch.Tensor]) -> nn.Module:
        module: nn.Module = self.model.get_submodule(name)
        models.fill(module, device.move(tensors, self.place), name, self.model.dtype)
        return module

    def _commit(self, quality: dict[str, Any] | None) -> None:
        self.steps.begin("write")
        index = len(self.state.units)
        written, entries = self.saver.write_unit(index)
        hidden = None
        if index <= self.layers:  # nothing follows the head
            hidden = self.passes.hidden_states() | ({} if self.meter is None else self.meter.boundary())
        self.state.commit(written, entries, self.saver.figures(), hidden, quality)
        gc.collect()
        device.release(self.place)
