"""Forward passes of the datasets through the layer in progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from quantpipe.quantize.worker import device
from quantpipe.quantize.worker.streaming import batched
from quantpipe.quantize.worker.streaming.model import EMBEDDING, Inputs, capture

SMOOTHING, CALIBRATION = "smoothing", "calibration"


@dataclass
class Dataset:
    """A dataset between two layers.

    Attributes:
        prompts: [ids, attention mask] of each prompt.
        inputs: what the next layer is called with, for each prompt.
    """

    prompts: Sequence[Sequence[torch.Tensor]]
    inputs: list[Inputs] = field(default_factory=list)


class StopForward(Exception):  # noqa: N818  (no error: all that is needed has been seen)
    """Ends a forward pass after the last module whose input is needed."""


class Passes:
    """The datasets on their way through the model.

    Args:
        datasets: by role; CALIBRATION always, SMOOTHING where that is another one.
        place: the device of the layers.
        exact: prompt by prompt, as msmodelslim does; False takes batched.py where it can.
    """

    def __init__(self, datasets: Mapping[str, Dataset], *, place: torch.device, exact: bool) -> None:
        self._datasets, self._place, self._exact = dict(datasets), place, exact

    # -- between layers --------------------------------------------------------------------------

    def embed(self, model: nn.Module) -> None:
        """Enter the first layer with the embeddings of all prompts."""
        embedding = model.get_submodule(EMBEDDING)
        for dataset in self._datasets.values():
            for ids, mask in dataset.prompts:
                moved = device.move({"ids": ids, "mask": mask}, self._place)
                hidden = embedding(moved["ids"])
                dataset.inputs.append(capture(model, hidden, moved["mask"]))

    def resume(self, model: nn.Module, hidden: Mapping[str, torch.Tensor]) -> None:
        """Enter a layer with what `hidden_states` gave; keyword arguments follow from the prompts alone."""
        for role, dataset in self._datasets.items():
            for number, (_, mask) in enumerate(dataset.prompts):
                states = hidden.get(_key(role, number))
                if states is not None:  # after the last layer there are none
                    moved = device.move({"states": states, "mask": mask}, self._place)
                    dataset.inputs.append(capture(model, moved["states"], moved["mask"]))

    def hidden_states(self) -> dict[str, torch.Tensor]:
        """The hidden states that enter the next layer, by role and prompt."""
        return {
            _key(role, number): states
            for role, dataset in self._datasets.items()
            for number, (states, _) in enumerate(dataset.inputs)
        }

    @property
    def prompts(self) -> int:
        """Of the calibration set."""
        return len(self._datasets[CALIBRATION].prompts)

    @property
    def tokens(self) -> int:
        """Of the calibration set."""
        return sum(int(ids.numel()) for ids, _ in self._datasets[CALIBRATION].prompts)

    # -- through the layer in progress -----------------------------------------------------------

    def calibrate(self, layer: nn.Module, on_prompt: Callable[[], None] = lambda: None) -> None:
        """The calibration set goes through the layer.

        Args:
            on_prompt: called after each prompt, where they go one by one.
        """
        self._forward(self._datasets[CALIBRATION], layer, on_prompt)

    def smooth(self, layer: nn.Module, name: str, targets: Sequence[str]) -> None:
        """Statistics from the smoothing set, which sees the layer before it is smoothed and quantized.

        Where both roles have one dataset, it goes through the quantized layer, as in msmodelslim's V1, and
        the result of a forward pass here is not needed: it ends at the last module that is watched.

        Args:
            name: of the layer.
            targets: full names of the modules whose inputs are needed.
        """
        if SMOOTHING in self._datasets:
            self._forward(self._datasets[SMOOTHING], layer)
        else:
            _watch(self._datasets[CALIBRATION], layer, name, targets)

    def _forward(
        self, dataset: Dataset, layer: nn.Module, on_prompt: Callable[[], None] = lambda: None
    ) -> None:
        if not self._exact and not _is_watched(layer):
            states = batched.forward(layer, dataset.inputs)
            dataset.inputs = [(s, given) for s, (_, given) in zip(states, dataset.inputs, strict=True)]
            return
        for number, (hidden, keywords) in enumerate(dataset.inputs):
            result = layer(hidden, **keywords)
            dataset.inputs[number] = (result[0] if isinstance(result, tuple) else result), keywords
            on_prompt()


def _watch(dataset: Dataset, layer: nn.Module, name: str, targets: Sequence[str]) -> None:
    """Run the dataset up to the last target; all of the layer where experts are among the targets."""
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
            module = layer.get_submodule(target.removeprefix(f"{name}."))
            handles.append(module.register_forward_hook(reached(target)))
    if len(handles) == 1:  # only its input is needed, not the product
        module.forward = lambda given: given
    try:
        for hidden, keywords in dataset.inputs if targets else ():
            left.update(targets)
            try:
                layer(hidden, **keywords)
            except StopForward:
                continue
    finally:
        for handle in handles:
            handle.remove()
        if len(handles) == 1:
            del module.forward


def _is_watched(layer: nn.Module) -> bool:
    """Whether a processor watches linears, which a batched pass does not call one by one."""
    return any(module._forward_hooks for module in layer.modules())


def _key(role: str, number: int) -> str:
    return f"{role}.{number:05d}"
