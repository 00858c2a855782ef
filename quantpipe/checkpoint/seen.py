"""The dimensions that the tensors themselves show, for comparison with config.json's."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from quantpipe.checkpoint.dims import MAX_EXPERTS_IN_ALL, Dims
from quantpipe.checkpoint.safetensors import Tensor

_MOST_DIGITS = 6
_ENDS = ("model.embed_tokens.weight", "lm_head.weight")


def seen_dims(dims: Dims, tensors: Mapping[str, Tensor], described: Iterable[str]) -> dict[str, int]:
    """The dimensions, by their name in `Dims`, in which most tensors differ from `dims`.

    Args:
        dims: what config.json says.
        tensors: by name.
        described: names in the description: they too show how many layers and experts there are.
    """
    sizes = _sizes(tensors)
    seen = {key: count.most_common(1)[0][0] for key, count in sizes.items()}
    head_dim = seen.get("head_dim", dims.head_dim)
    for key, rows in (("heads", seen.pop("query", 0)), ("kv_heads", seen.pop("key", 0))):
        if rows and head_dim and rows % head_dim == 0:
            seen[key] = rows // head_dim
    if dims.vocab in sizes["vocab"]:  # embedding and head disagree: one of them is right
        seen.pop("vocab", None)
    layers, experts = _numbers([*tensors, *described])
    if max(layers, dims.layers) * max(experts, dims.experts, 1) <= MAX_EXPERTS_IN_ALL:  # names may lie
        seen["layers"] = layers or dims.layers
        seen["experts"] = (experts or dims.experts) if dims.experts else 0
    return {key: size for key, size in seen.items() if size > 0 and size != getattr(dims, key)}


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, Counter[int]]:
    """How often each size of a dimension is seen; `query` and `key` are the rows of q_proj and k_proj."""
    sizes: dict[str, Counter[int]] = defaultdict(Counter)
    for name, tensor in tensors.items():
        if not name.endswith(".weight"):
            continue
        shape, leaf = tensor.shape, name[:-7].rpartition(".")[2]
        if len(shape) == 1 and leaf in ("input_layernorm", "post_attention_layernorm"):
            sizes["hidden"][shape[0]] += 1
        elif len(shape) == 1 and leaf == "q_norm":
            sizes["head_dim"][shape[0]] += 1
        elif len(shape) != 2:
            continue
        elif name in _ENDS:
            sizes["vocab"][shape[0]] += 1
        elif leaf in ("q_proj", "k_proj"):
            sizes["query" if leaf == "q_proj" else "key"][shape[0]] += 1
        elif leaf == "down_proj":
            sizes["moe_intermediate" if ".experts." in name else "intermediate"][shape[1]] += 1
    return sizes


def _numbers(names: Iterable[str]) -> tuple[int, int]:
    """One more than the largest layer number and expert number in the names; 0 where there is none."""
    layers: set[str] = set()
    experts: set[str] = set()
    for name in names:
        parts = name.split(".", 6)
        if len(parts) > 3 and parts[1] == "layers":
            layers.add(parts[2])
            if len(parts) > 6 and parts[4] == "experts":
                experts.add(parts[5])
    return _count(layers), _count(experts)


def _count(texts: set[str]) -> int:
    numbers = [int(text) for text in texts if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS]
    return max(numbers, default=-1) + 1
