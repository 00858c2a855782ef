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
