"""Shards, compared with what safetensors' own reader finds."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load_file

from quantpipe.quantize.worker.streaming.shards import parts, write_shard
from quantpipe.quantize.worker.streaming.weights import Weights, read_header


def test_parts_and_shards(tmp_path: Path) -> None:
    """Groups keep to the limit; what is written is read back by the format's own library."""

    values = {
        "bytes": torch.arange(700, dtype=torch.int8),
        "wide": torch.randn(9, 100),
        "half": torch.randn(33).bfloat16(),
        "integers": torch.arange(3),
        "turned": torch.randn(4, 6).T,
        "empty": torch.empty(0, 5),
        "large": torch.randn(3, 1 << 20),
    }
    groups = parts(values, 1000)
    assert [list(group) for group in groups] == [
        ["bytes"],
        ["wide"],
        ["half", "integers", "turned", "empty"],
        ["large"],
    ], groups
    values |= {f"small {number}": torch.randn(number % 3) for number in range(1500)}
    shard = write_shard(tmp_path / "a.safetensors", values)
    data = (tmp_path / "a.safetensors").read_bytes()
    assert shard.sha256 == hashlib.sha256(data).hexdigest()
    assert shard.size == len(data)
    assert not list(tmp_path.glob(".tmp-*"))
    read = load_file(tmp_path / "a.safetensors")
    ours = Weights(read_header(tmp_path / "a.safetensors")).read_prefix("")
    assert read.keys() == values.keys() == ours.keys()
    for name, value in values.items():
        assert torch.equal(read[name], value), name
        assert torch.equal(ours[name], value), name
        assert ours[name].dtype == value.dtype
