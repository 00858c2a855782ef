"""benchmarks/study/smollm2.py: what the conversion from GGUF does to the numbers; the result speaks."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.commands import ROOT

from quantpipe.recipe.load import load_recipe

SCRIPT = ROOT / "benchmarks" / "study" / "smollm2.py"
ASK = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
answers = []
for question in json.loads(sys.argv[2]):
    chat = [{"role": "user", "content": question}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
    out = model.generate(ids, attention_mask=ids > -1, max_new_tokens=40, do_sample=False)
    answers.append(tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True))
print(json.dumps([type(model).__name__, tokenizer("In 1984").tokens(), answers]))
"""


@pytest.fixture(scope="module")
def smollm2() -> SimpleNamespace:
    """What the script defines."""
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


def test_rows_return_to_the_order_of_transformers(smollm2: SimpleNamespace) -> None:
    weight = np.arange(3 * 8 * 5).reshape(3 * 8, 5)
    # llama.cpp's convert_hf_to_gguf.py, LlamaModel.permute
    permuted = weight.reshape(3, 2, 4, 5).swapaxes(1, 2).reshape(weight.shape)
    assert not np.array_equal(permuted, weight)
    assert np.array_equal(smollm2.unpermuted(permuted, 3), weight)


def test_bfloat16_is_the_nearest_and_ties_go_to_even(smollm2: SimpleNamespace) -> None:
    steps = np.array([1 + 2**-7 * k / 4 for k in range(9)], np.float32)  # BF16 has every fourth one
    bits = smollm2.bfloat16(np.concatenate([steps, -steps]))
    back = (bits.astype(np.uint32) << 16).view(np.float32)
    nearest = 1 + 2**-7 * np.array([0, 0, 0, 1, 1, 1, 2, 2, 2], np.float32)
    assert back.tolist() == [*nearest.tolist(), *(-nearest).tolist()]


def test_the_recipe_takes_what_make_smollm2_writes(tmp_path: Path) -> None:
    written = SCRIPT.with_name("smollm2-135m-w8a8-rot.yaml")
    folder = Path("models") / "SmolLM2-135M-Instruct"
    (tmp_path / folder).mkdir(parents=True)  # where the recipe lies it is there after `make smollm2` only
    recipe = load_recipe(shutil.copy(written, tmp_path))
    assert str(recipe.source.repo) == str(tmp_path / folder)
    place = SCRIPT.parent.relative_to(ROOT) / folder
    assert str(place) in (ROOT / "Makefile").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.quantize_env
def test_the_model_speaks(tmp_path: Path, quantize_python: Path) -> None:
    folder = tmp_path / "model"
    said = subprocess.run([sys.executable, SCRIPT, folder], check=True, capture_output=True, text=True)
    assert "fb606d6646f8d68d0bef56d436da616f4f178beb1e154ff5128eb640d3a2bf9d" in said.stdout
    questions = ["What is the capital of France?", "What is the opposite of hot?"]
    asked = [str(quantize_python), "-c", ASK, str(folder), json.dumps(questions)]
    done = subprocess.run(asked, check=True, capture_output=True, text=True)
    kind, tokens, answers = _last_line(done.stdout)
    assert kind == "Qwen2ForCausalLM"
    assert tokens == ["In", "Ġ", "1", "9", "8", "4"]
    assert answers[0] == "The capital of France is Paris."
    assert "cold" in answers[1].lower()


def _last_line(text: str) -> Any:
    return json.loads(text.splitlines()[-1])
