"""From msmodelslim's output to what vLLM serves: names, index, description, config, tokenizer.

Facts behind each step are in docs/checkpoint-format.md.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from quantpipe import durable
from quantpipe.checkpoint.names import (
    CHAT_TEMPLATE,
    CONFIG,
    DESCRIPTION,
    INDEX,
    INDEX_SUFFIX,
    LICENSE_FILES,
    SHARD_GLOB,
    TOKENIZER_CONFIG,
    shard_name,
)
from quantpipe.checkpoint.strict_json import load_object
from quantpipe.errors import QuantizeError

_TOKENIZER_FILES = (
    "added_tokens.json",
    CHAT_TEMPLATE,
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    TOKENIZER_CONFIG,
    "vocab.json",
)


def finish(output: Path, snapshot: Path, *, scheme: str, trust_remote_code: bool) -> None:
    """Make msmodelslim's output directory servable, in place. Can be repeated.

    Args:
        output: what msmodelslim wrote.
        snapshot: the BF16 model: source of the tokenizer and the licence.
        scheme: becomes `quantize` in config.json, which vllm-ascend's fused MC2 reads.
        trust_remote_code: without it the model's Python files are left out.

    Raises:
        QuantizeError: the output is incomplete: the files that msmodelslim writes last are missing.
    """
    _name_shards(output)
    _clean_description(output / DESCRIPTION)
    _mark_config(output / CONFIG, scheme)
    for name in (*_TOKENIZER_FILES, *LICENSE_FILES, "NOTICE"):
        if (snapshot / name).is_file() and not (output / name).exists():
            shutil.copyfile(snapshot / name, output / name)
    for path in list(output.glob("*.py")) if not trust_remote_code else []:
        path.unlink()
    for path in output.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _name_shards(output: Path) -> None:
    """Give shards and index the names that vLLM reads.

    It ignores every other index name, and without an index it loads every *.safetensors file.
    """
    found = sorted(output.glob(f"*{INDEX_SUFFIX}"))
    if len(found) != 1:
        raise _incomplete(output, f"found {len(found)} index files instead of one")
    index = _read_json(found[0])
    shards = _shards_of(index, found[0])
    names = {old: shard_name(number, len(shards)) for number, old in enumerate(shards, 1)}
    strays = {path.name for path in output.glob(SHARD_GLOB)} - names.keys()
    if strays:
        raise _incomplete(output, f"shards that the index does not name: {', '.join(sorted(strays))}")
    for old, new in names.items():
        if not (output / old).is_file():
            raise _incomplete(output, f"the index names {old}, which is missing")
        (output / old).rename(output / new)
    index["weight_map"] = {tensor: names[shard] for tensor, shard in sorted(index["weight_map"].items())}
    durable.write_json(output / INDEX, index)
    if found[0].name != INDEX:
        found[0].unlink()


def _shards_of(index: dict[str, Any], path: Path) -> list[str]:
    weights = index.get("weight_map")
    if not isinstance(weights, dict) or not weights or not all(isinstance(s, str) for s in weights.values()):
        raise _incomplete(path, "its `weight_map` does not name a shard for each tensor")
    return sorted(set(weights.values()))


def _clean_description(path: Path) -> None:
    """Drop keys whose value is null: vllm-ascend treats a null `fa_quant_type` as enabled."""
    description = _read_json(path)
    durable.write_json(path, {key: value for key, value in description.items() if value is not None})


def _mark_config(path: Path, scheme: str) -> None:
    """Without `quantization_config`, which would hide the description; with `quantize`."""
    config = _read_json(path)
    config.pop("quantization_config", None)
    config["quantize"] = scheme
    durable.write_json(path, config)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return load_object(path)
    except OSError as error:
        raise _incomplete(path, str(error)) from error
    except ValueError as error:
        raise _incomplete(path, f"it {error}") from error


def _incomplete(path: Path, what: str) -> QuantizeError:
    return QuantizeError(
        f"msmodelslim reported success, but its output is incomplete: {what}",
        where=str(path),
        hint="look at the end of the quantize log, then run again with `--force quantize`",
    )
