"""The file names of a model directory: as Hugging Face, msmodelslim and vLLM write and read them.

Every module that reads or writes one of these files takes its name from here. Standard library only.
"""

from __future__ import annotations

CONFIG = "config.json"
"""The model's sizes and types; every model directory has one."""

TOKENIZER_CONFIG = "tokenizer_config.json"
"""The tokenizer's settings. It may hold a chat template."""

LICENSE_FILES = ("LICENSE", "LICENSE.txt")
"""The license of a model; copied from its source."""

CHAT_TEMPLATE = "chat_template.jinja"
"""The chat template, where it has a file of its own."""

DESCRIPTION = "quant_model_description.json"
"""By which scheme each tensor was quantized, as msmodelslim writes it."""

SHARD_SUFFIX = ".safetensors"
SHARD_GLOB = f"*{SHARD_SUFFIX}"
"""A glob: vLLM loads every such file in the directory itself, unless an index names some of them."""

INDEX_SUFFIX = ".safetensors.index.json"
INDEX = f"model{INDEX_SUFFIX}"
"""The only index that vLLM reads. msmodelslim writes others, which vLLM ignores."""

ROTATION = "optional/quarot.safetensors"
"""The path of the global rotation, relative to the checkpoint; it is not a shard."""


def shard_name(number: int, count: int) -> str:
    """The name of shard `number`, counted from 1, of `count`: `model-00001-of-00003.safetensors`."""
    return f"model-{number:05d}-of-{count:05d}{SHARD_SUFFIX}"
