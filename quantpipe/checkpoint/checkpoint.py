"""A checkpoint directory as the checks see it: headers, indexes, description and config, read once."""

from __future__ import annotations

from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantpipe.checkpoint.description import FLOAT, Description, read_description
from quantpipe.checkpoint.dims import Dims, read_dims
from quantpipe.checkpoint.index import Index, read_index
from quantpipe.checkpoint.modules import KINDS, Module, Spec, governing_type, modules, specs
from quantpipe.checkpoint.names import CONFIG, DESCRIPTION, INDEX_SUFFIX, SHARD_SUFFIX
from quantpipe.checkpoint.safetensors import Header, Tensor, read_header
from quantpipe.checkpoint.seen import seen_dims
from quantpipe.checkpoint.strict_json import read_object
from quantpipe.checkpoint.support import supported_types

if TYPE_CHECKING:
    from quantpipe.checkpoint.layout import Layout
    from quantpipe.store.manifest import Mismatch
    from quantpipe.verify.fidelity.result import Fidelity
    from quantpipe.verify.values import Values


@dataclass
class Checkpoint:
    """All that is known about a checkpoint.

    Attributes:
        names: everything in the directory itself, not in its folders.
        headers: one for each `*.safetensors` in it, in the order of their names: what vLLM would load.
        description, config, config_dims: None where the file is absent or wrong; then the problem says why.
        values: what a deep look found; None without one.
        fidelity: the comparison with the BF16 source; None without one.
        mismatches: how it differs from its manifest; None without one.
    """

    path: Path
    names: tuple[str, ...]
    headers: tuple[Header, ...]
    indexes: tuple[Index, ...]
    description: Description | None
    description_problem: str
    config: dict[str, Any] | None
    config_problem: str
    config_dims: Dims | None
    target: str
    layout: Layout | None = None
    values: Values | None = None
    fidelity: Fidelity | None = None
    mismatches: list[Mismatch] | None = None
    sealing: bool = False

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name; of one that lies in several shards the last, which vLLM would keep."""
        return {tensor.name: tensor for header in self.headers for tensor in header.tensors}

    @cached_property
    def repeated(self) -> dict[str, list[str]]:
        """Tensors that lie in several shards, with the shards."""
        count = Counter(tensor.name for header in self.headers for tensor in header.tensors)
        names = {name for name, number in count.items() if number > 1}
        found: dict[str, list[str]] = {}
        for header in self.headers if names else ():
            for tensor in header.tensors:
                if tensor.name in names:
                    found.setdefault(tensor.name, []).append(tensor.shard)
        return found

    @cached_property
    def seen(self) -> dict[str, int]:
        """The dimensions in which the tensors differ from config.json."""
        return seen_dims(self)

    @cached_property
    def dims(self) -> Dims:
        """The dimensions that the tensors have, where they agree on others than config.json."""
        assert self.config_dims is not None
        seen: dict[str, Any] = dict(self.seen)
        return replace(self.config_dims, **seen)

    @cached_property
    def modules(self) -> dict[str, Module]:
        """The modules that the model has to have, by name."""
        return {module.name: module for module in modules(self.dims)}

    @cached_property
    def types(self) -> dict[str, str]:
        """The type of every module that can be judged by one: none that A3 to A5 or B3 complain about."""
        assert self.description is not None
        supported = {kind: supported_types(self.target, kind) for kind in KINDS}
        found = {}
        for module in self.modules.values():
            kind = governing_type(module, self.description)
            own = self.description.type_of(module.name) or kind
            if kind is None or own != kind or module.group in self.disputed:
                continue
            if kind in supported[module.kind]:
                found[module.name] = kind
        return found

    @cached_property
    def static_scales(self) -> bool:
        """Whether static linears keep their weight_scale, as V0's do: what holds for most of them."""
        assert self.description is not None
        static = [name for name, kind in self.types.items() if kind == "W8A8"]
        known = self.tensors.keys() | self.description.types.keys()
        kept = sum(f"{name}.weight_scale" in known for name in static)
        return 2 * kept > len(static)

    def specs_of(self, name: str) -> dict[str, Spec] | None:
        """The tensors that a module has to have, by suffix; None where it cannot be judged."""
        kind = self.types.get(name)
        if kind is None:
            return None
        return specs(self.modules[name], kind, self.dims.dtype, static_scales=self.static_scales)

    @cached_property
    def expected(self) -> dict[str, Spec]:
        """Every tensor that has to be there or may be, with what it has to be."""
        return {
            f"{name}.{suffix}": spec
            for name in self.types
            for suffix, spec in (self.specs_of(name) or {}).items()
        }

    @cached_property
    def group_types(self) -> dict[str, dict[str, str]]:
        """For each fused module the types of its parts; of the experts only expert 0 is looked at."""
        assert self.description is not None
        groups: dict[str, dict[str, str]] = defaultdict(dict)
        for module in self.modules.values():
            kind = self.description.type_of(module.name)
            if module.group and looked_up(module) and kind is not None:
                groups[module.group][module.name] = kind
        return groups

    @cached_property
    def disputed(self) -> set[str]:
        """Fused modules whose parts differ in type (A4): no expectation can be drawn from them."""
        return {group for group, types in self.group_types.items() if len(set(types.values())) > 1}

    @property
    def quantized(self) -> bool:
        """Whether there is a description that quantizes anything."""
        return self.description is not None and self.description.quantized

    @property
    def total_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(header.size for header in self.headers)

    def module_types(self) -> Counter[str]:
        """How many modules there are of each type."""
        return Counter(kind for kind in self.types.values() if kind != FLOAT)


def looked_up(module: Module) -> bool:
    """Whether vllm-ascend looks for the module's key by name: of the experts only the first counts."""
    return module.kind != "norm" and module.expert <= 0


def open_checkpoint(path: Path, *, target: str, layout: Layout | None = None, jobs: int = 2) -> Checkpoint:
    """Read all headers and JSON files of a directory; no tensor.

    Raises:
        NotADirectoryError, FileNotFoundError, PermissionError: it cannot be listed.
    """
    names = tuple(sorted(entry.name for entry in path.iterdir()))
    shards = [name for name in names if name.endswith(SHARD_SUFFIX)]
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        headers = tuple(pool.map(lambda name: read_header(path / name, name), shards))
    indexes = tuple(read_index(path / name) for name in names if name.endswith(INDEX_SUFFIX))
    description, description_problem = None, "is missing"
    if DESCRIPTION in names:
        try:
            description, description_problem = read_description(path / DESCRIPTION), ""
        except ValueError as error:
            description_problem = str(error)
    config, dims, config_problem = _read_config(path, names)
    return Checkpoint(
        path,
        names,
        headers,
        indexes,
        description,
        description_problem,
        config,
        config_problem,
        dims,
        target,
        layout,
    )


def _read_config(path: Path, names: tuple[str, ...]) -> tuple[dict[str, Any] | None, Dims | None, str]:
    if CONFIG not in names:
        return None, None, "is missing"
    config = None
    try:
        config = read_object(path / CONFIG)
        return config, read_dims(config), ""
    except ValueError as error:
        return config, None, str(error)
