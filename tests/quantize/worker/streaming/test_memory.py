"""Memory that is used again."""

from __future__ import annotations

import torch

from quantpipe.quantize.worker.streaming.memory import PagePool


def test_memory() -> None:
    """Memory is used again once no tensor is in it, and not before."""

    memory = PagePool()
    first = torch.from_numpy(memory.take(1000))
    first.fill_(1)
    view, place = first[100:200], first.data_ptr()
    del first
    second = torch.from_numpy(memory.take(1000)).fill_(2)
    assert second.data_ptr() != place
    assert int(view.sum()) == 100
    del view
    third = torch.from_numpy(memory.take(500))
    assert third.data_ptr() == place
    assert torch.from_numpy(memory.take(5000)).numel() >= 5000


def test_copies_of_a_layer_lie_where_those_of_the_last_layer_lay() -> None:
    """All of them, and not only the first: the quality's meter takes one for each linear."""

    memory = PagePool()

    def take() -> list[torch.Tensor]:
        return [torch.from_numpy(memory.take(size)) for size in (8000, 1000, 4000, 1000)]

    for tensor in take():
        tensor.fill_(7)
    del tensor
    assert all(int(tensor[0]) == 7 for tensor in take())  # new pages would be zeros
