"""msmodelslim's AscendV1 saver, writing to our shards: a unit is written whole when it is done."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from msmodelslim import ir
from msmodelslim.core.quant_service.modelslim_v1.save.ascendv1 import (
    AscendV1Config,
    AscendV1Saver,
    QuaRotOptionalScopeInfo,
    copy_files,
    remove_quantization_config,
)
from torch import nn

from quantpipe import durable
from quantpipe.checkpoint.names import CONFIG, DESCRIPTION, INDEX, ROTATION, SHARD_SUFFIX
from quantpipe.checkpoint.strict_json import load_object
from quantpipe.quantize.worker.streaming import shards
from quantpipe.quantize.worker.streaming.shards import Shard
from quantpipe.quantize.worker.streaming.state import Unit, final_names


class _Collected:
    """Replaces msmodelslim's file writers: keeps what they would write."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def write(self, key: str, value: Any) -> None:
        """Keep a tensor, or an entry of the description."""
        self.values[key] = value.detach() if isinstance(value, torch.Tensor) else value

    def close(self) -> None:
        """Nothing is open."""


class UnitSaver(AscendV1Saver):  # type: ignore[misc]
    """Converts modules to tensors and entries as msmodelslim does; writes them a unit at a time.

    Args:
        part_bytes: largest size of one shard.
    """

    def __init__(self, model: nn.Module, config: AscendV1Config, adapter: object) -> None:
        super().__init__(model, config, adapter)
        self.part_bytes = config.part_file_size << 30
        self._entries = self.json_writer = _Collected()

    def get_safetensors_writer(self, config: AscendV1Config) -> Any:
        """See AscendV1Saver."""
        del config
        self._tensors = _Collected()
        return self._tensors

    def save_module(self, name: str, module: nn.Module) -> None:
        """Add a module and all below it to the unit in progress."""
        hooks = [h for h in module._forward_pre_hooks.values() if isinstance(h, ir.HookIR)]
        for hook in hooks:
            module = hook.wrapper_module(module)
        for below, part in list(module.named_modules(prefix=name)):
            self._process_module_maybe_wrapper_ir(below, part)
        self.processed_modules.clear()  # or it would keep the modules in memory

    def on_quarot_extra_info_wrapper(self, prefix: str, module: Any) -> None:
        """The global rotation goes into a file of its own, which speculative decoding reads."""
        path = Path(self.config.save_directory) / ROTATION
        path.parent.mkdir(exist_ok=True)
        shards.write_shard(path, {"global_rotation": module.rotation_info.global_rotation})
        durable.fsync_directory(path.parent.parent)
        self.json_optional_infos["quarot"] = QuaRotOptionalScopeInfo(
            rotation_map={"global_rotation": ROTATION}
        )

    def unit(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The tensors of the unit in progress, and its entries of the description."""
        return self._tensors.values, self._entries.values

    def write_unit(self, index: int) -> tuple[list[Shard], dict[str, Any]]:
        """Write the unit in progress; returns its shards and its entries of the description."""
        tensors, entries = self._tensors.values, self._entries.values
        folder = Path(self.config.save_directory)
        written = [
            shards.write_shard(folder / f"unit-{index:05d}-{part:03d}{SHARD_SUFFIX}", group)
            for part, group in enumerate(shards.parts(tensors, self.part_bytes))
        ]
        self._tensors.values, self._entries.values = {}, {}
        return written, entries

    def figures(self) -> dict[str, Any]:
        """What the saver knows besides the tensors, for the end of the description."""
        optional = {k: v.model_dump(mode="json") for k, v in self.json_optional_infos.items()}
        return {
            "model_quant_type": self.model_quant_type,
            "group_size": self.group_size,
            "optional": optional,
        }

    def restore(self, figures: dict[str, Any]) -> None:
        """Continue from what `figures` returned."""
        self.model_quant_type, self.group_size = figures["model_quant_type"], figures["group_size"]
        self.json_optional_infos = {
            name: QuaRotOptionalScopeInfo(**value) for name, value in figures["optional"].items()
        }

    def conclude(self, units: list[Unit], *, untied: bool) -> dict[str, dict[str, Any]]:
        """Give the shards their final names, then write description, config, and the index last.

        May be repeated after a crash at any point.

        Returns:
            Size and SHA-256 of each shard by its final name.
        """
        folder = Path(self.config.save_directory)
        names = _name_shards(folder, units)
        description: dict[str, Any] = {}
        for unit in units:
            description |= unit.description
        description |= {"version": self.version, "metadata": self.metadata, **self.figures()}
        copy_files(self.adapter.model_path, str(folder))
        remove_quantization_config(str(folder))
        if untied:
            _set_untied(folder / CONFIG)
        durable.write_json(folder / DESCRIPTION, description)
        found = [(names[shard.name], shard) for unit in units for shard in unit.shards]
        weight_map = {tensor: name for name, shard in found for tensor in shard.tensors}
        total = sum(sum(shard.tensors.values()) for _, shard in found)
        durable.write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
        return {name: {"size": shard.size, "sha256": shard.sha256} for name, shard in found}


def _name_shards(folder: Path, units: list[Unit]) -> dict[str, str]:
    names = final_names(units)
    for old, new in names.items():
        if (folder / old).exists():
            os.replace(folder / old, folder / new)  # noqa: PTH105  (replaces leftovers of a killed run)
    durable.fsync_directory(folder)
    return names


def _set_untied(path: Path) -> None:
    durable.write_json(path, {**load_object(path), "tie_word_embeddings": False})
