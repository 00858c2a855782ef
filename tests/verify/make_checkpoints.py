"""Make small checkpoints with the real msmodelslim: run by .venv-quantize's interpreter, never imported.

    .venv-quantize/bin/python tests/checkpoint/make_checkpoints.py OUT KIND...

KIND is a key of MAKERS. Each makes OUT/<kind> (the checkpoint) and, where it is not there yet, its source
(OUT/bf16-moe, OUT/bf16-dense, OUT/bf16-tied or OUT/bf16-qwen2). Weights are random, with norms away from one
so that their folding shows, and Qwen2's biases away from zero.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

PROMPTS = [
    "The bridge was closed for repairs until the first week of May.",
    "def area(width, height):\n    return width * height",
    "If every crate holds nine jars, how many jars do seven crates hold?",
    "Rain fell on the harbour while the boats came in one by one.",
]
SHARED = {
    "vocab_size": 384,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,  # the least that msmodelslim can turn: at 16 its block rotation of v_proj is all zero
    "max_position_embeddings": 256,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.08,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "torch_dtype": "bfloat16",
}
MOE = {
    "intermediate_size": 128,
    "moe_intermediate_size": 32,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}


def save_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer without merges: it encodes anything."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<|endoftext|>", "<|im_end|>", *letters])}
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=256,
        chat_template="{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}",
    ).save_pretrained(folder)
    # transformers 4.57 writes a chat template of its own file; msmodelslim's V0 copies only *.json and *.py.
    config = folder / "tokenizer_config.json"
    value = json.loads(config.read_text())
    value["chat_template"] = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    config.write_text(json.dumps(value, indent=2))


def source(out: Path, kind: str) -> Path:
    """The BF16 model `bf16-moe`, `bf16-dense`, `bf16-qwen2` or, with one matrix at both ends, `bf16-tied`."""
    folder = out / f"bf16-{kind}"
    if (folder / "tokenizer.json").is_file():
        return folder
    torch.manual_seed(7)
    model: Any
    if kind == "moe":
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**SHARED, **MOE))
    elif kind == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**SHARED, intermediate_size=128))
    else:
        tied = {"tie_word_embeddings": kind == "tied"}
        model = Qwen3ForCausalLM(Qwen3Config(**{**SHARED, **tied}, intermediate_size=128))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            if name.endswith("bias"):
                parameter.copy_(0.5 * torch.randn_like(parameter))
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="120KB")
    save_tokenizer(folder)
    return folder


def spec(out: Path, *, smooth: bool, dense: bool) -> Path:
    """The V1 configuration, as the pipeline's worker uses it."""

    def linear(scope: str, symmetric: bool, **names: list[str]) -> dict[str, Any]:
        act = {"scope": scope, "dtype": "int8", "symmetric": symmetric, "method": "minmax"}
        weight = {"scope": "per_channel", "dtype": "int8", "symmetric": True, "method": "minmax"}
        return {"type": "linear_quant", "qconfig": {"act": act, "weight": weight}, **names}

    process: list[dict[str, Any]] = [{"type": "quarot"}]
    if smooth:
        process.append(
            {"type": "flex_smooth_quant", "enable_subgraph_type": ["norm-linear"], "include": ["*"]}
        )
    groups = [
        linear("per_tensor", False, include=["*self_attn*"]),
        linear("per_token", True, include=["*mlp*"], exclude=["*gate"]),
    ]
    process.append({"type": "group", "configs": groups})
    dataset = out / "prompts.jsonl"
    dataset.write_text("".join(json.dumps({"inputs_pretokenized": p}) + "\n" for p in PROMPTS))
    value = {
        "apiversion": "modelslim_v1",
        "metadata": {
            "config_id": "tiny",
            "score": 90,
            "verified_model_types": ["Qwen3-30B"],
            "label": {"w_bit": 8, "a_bit": 8, "is_sparse": False, "kv_cache": False},
        },
        "spec": {
            "process": process,
            "save": [{"type": "ascendv1_saver", "part_file_size": 4}],
            "dataset": str(dataset),
        },
    }
    path = out / f"spec-{'smooth' if smooth else 'plain'}-{'dense' if dense else 'moe'}.yaml"
    path.write_text(json.dumps(value))
    path.chmod(0o600)
    return path


def v1(out: Path, name: str, *, kind: str, smooth: bool) -> None:
    """`msmodelslim quant`, in this process: its imports cost more than its work.

    Qwen2 goes by the adapter of Qwen3, whose maps name the same modules: its own has no rotation.
    """
    from msmodelslim.cli.__main__ import main

    model_type = "Qwen3-30B" if kind == "moe" else "Qwen3-8B"
    arguments = [
        "--model_type",
        model_type,
        "--model_path",
        str(source(out, kind)),
        "--save_path",
        str(out / name),
    ]
    arguments += ["--device", "cpu", "--config_path", str(spec(out, smooth=smooth, dense=kind != "moe"))]
    sys.argv = ["msmodelslim", "quant", *arguments, "--trust_remote_code", "False"]
    main()


def rotate(model: Any) -> None:
    """What the tutorial's `--rot` does, with the wheel's own building blocks."""
    from msmodelslim.model.qwen3_moe.model_adapter import qwen3_moe_get_ln_fuse_map, qwen3_moe_get_rotate_map
    from msmodelslim.processor.quarot.common.quarot_utils import fuse_ln_linear, rotate_linear, rotate_weight

    for norm, linears in qwen3_moe_get_ln_fuse_map(model.config).items():
        fuse_ln_linear([model.get_submodule(norm)], [model.get_submodule(name) for name in linears])
    before, pairs, _, _ = qwen3_moe_get_rotate_map(model.config, -1)
    for pair in [before, *pairs.values()]:
        for name, matrix in pair.right_rot.items():
            module = model.get_submodule(name)
            turn = rotate_weight if isinstance(module, torch.nn.Embedding) else rotate_linear
            turn(module.weight if turn is rotate_weight else module, matrix, True)
        for name, matrix in pair.left_rot.items():
            rotate_linear(model.get_submodule(name), matrix, False)


def v0(out: Path, name: str) -> None:
    """The tutorial's script: rotate, AntiOutlier m4, Calibrator with the mixed configuration."""
    from msmodelslim.pytorch.llm_ptq.anti_outlier import AntiOutlier, AntiOutlierConfig
    from msmodelslim.pytorch.llm_ptq.llm_ptq_tools import Calibrator, QuantConfig

    folder = source(out, "moe")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder, torch_dtype="auto", attn_implementation="eager", device_map="cpu"
    ).eval()
    rotate(model)
    encoded = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    data = [[encoded["input_ids"], encoded["attention_mask"]]]
    AntiOutlier(
        model,
        calib_data=data,
        cfg=AntiOutlierConfig(anti_method="m4", dev_type="cpu"),
        norm_class_name="Qwen3MoeRMSNorm",
    ).process()
    config = QuantConfig(
        a_bit=8,
        w_bit=8,
        disable_names=[f"model.layers.{i}.mlp.gate" for i in range(model.config.num_hidden_layers)],
        dev_type="cpu",
        act_method=1,
        pr=1.0,
        w_sym=True,
        mm_tensor=False,
    )
    calibrator = Calibrator(
        model, config, calib_data=data, disable_level="L0", mix_cfg={"*.mlp.*": "w8a8_dynamic", "*": "w8a8"}
    )
    calibrator.run()
    calibrator.save(str(out / name), save_type=["ascendV1"], part_file_size=4)
    finish_v0(folder, out / name)


def finish_v0(folder: Path, checkpoint: Path) -> None:
    """The tail of the tutorial's script: copy the *.json, mark config.json, write the null key."""
    for path in folder.glob("*.json"):
        if path.name != "model.safetensors.index.json":
            (checkpoint / path.name).write_bytes(path.read_bytes())
            (checkpoint / path.name).chmod(0o600)
    config = json.loads((folder / "config.json").read_text())
    config["quantize"] = "w8a8_dynamic"
    (checkpoint / "config.json").write_text(json.dumps(config, indent=2))
    path = checkpoint / "quant_model_description.json"
    if not path.exists():
        (found,) = checkpoint.glob("quant_model_description*.json")
        found.rename(path)
    description = json.loads(path.read_text())
    description["fa_quant_type"] = None
    path.chmod(0o600)
    path.write_text(json.dumps(description, indent=2))


MAKERS: dict[str, Callable[[Path], None]] = {
    "v1-moe": lambda out: v1(out, "v1-moe", kind="moe", smooth=False),
    "v1-moe-smooth": lambda out: v1(out, "v1-moe-smooth", kind="moe", smooth=True),
    "v1-dense": lambda out: v1(out, "v1-dense", kind="dense", smooth=False),
    "v1-qwen2": lambda out: v1(out, "v1-qwen2", kind="qwen2", smooth=False),
    "v1-tied": lambda out: v1(out, "v1-tied", kind="tied", smooth=False),
    "v0-moe": lambda out: v0(out, "v0-moe"),
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    target = Path(sys.argv[1]).resolve()
    target.mkdir(parents=True, exist_ok=True)
    for kind in sys.argv[2:]:
        gc.collect()
        gc.freeze()  # msmodelslim collects 14 times per model: 0.3 s each with all that is imported
        MAKERS[kind](target)
