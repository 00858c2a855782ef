"""Load checkpoints one after the other in the real vLLM engine on the CPU: run by .venv-serve's interpreter.

    .venv-serve/bin/python tests/verify/rehearse.py REPORT DIR...

REPORT becomes a JSON object: directory -> the log-probabilities of a fixed prompt's tokens, or the error.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

PROMPT = [(7 * i * i + 11 * i + 3) % 256 + 2 for i in range(96)]


def logprobs(directory: str) -> list[float]:
    """The log-probability of each token of PROMPT after the first."""
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=directory,
        quantization="ascend",
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=128,
        max_num_seqs=1,
        skip_tokenizer_init=True,
    )
    sampling = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
    (output,) = engine.generate([{"prompt_token_ids": PROMPT}], sampling, use_tqdm=False)
    found = [
        entry[token].logprob for entry, token in zip(output.prompt_logprobs[1:], PROMPT[1:], strict=True)
    ]
    engine.llm_engine.engine_core.shutdown()
    return found


def main(report: str, *directories: str) -> None:
    results: dict[str, list[float] | str] = {}
    for directory in directories:
        try:
            results[directory] = logprobs(directory)
        except Exception as error:
            results[directory] = f"{type(error).__name__}: {error}"
        gc.collect()
    Path(report).write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
