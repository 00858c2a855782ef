"""The real engine on one prompt, and what it has to say about it."""

from __future__ import annotations

from pathlib import Path

import torch
from vllm import LLM, SamplingParams

from .checkpoints import VOCAB
from .reference import ReferenceModel, UnquantizedActivations

TOKENS = torch.randint(3, VOCAB, (48,), generator=torch.Generator().manual_seed(7)).tolist()


def engine(directory: Path, **options: object) -> LLM:
    return LLM(
        str(directory),
        quantization="ascend",
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=128,
        max_num_seqs=2,
        max_num_batched_tokens=128,
        max_logprobs=VOCAB,
        skip_tokenizer_init=True,
        gpu_memory_utilization=0.15,
        **options,
    )


def engine_logprobs(llm: LLM) -> torch.Tensor:
    """[tokens - 1, vocabulary]: what the engine says of each next token of the prompt."""
    sampling = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=VOCAB, detokenize=False)
    (output,) = llm.generate([{"prompt_token_ids": TOKENS}], sampling, use_tqdm=False)
    rows = [[position[token].logprob for token in range(VOCAB)] for position in output.prompt_logprobs[1:]]
    return torch.tensor(rows)


def assert_close_to_reference(
    directory: Path, found: torch.Tensor, tolerance: float = 0.004, control: bool = True
) -> None:
    """Within rounding of the reference, and far nearer to it than to the same model without quantization.

    Here both are equal to the last bit; the tolerance is for CPUs whose bfloat16 attention rounds otherwise.
    """
    expected = ReferenceModel(directory).logprobs(TOKENS)[:-1]
    difference = (found - expected).abs().mean().item()
    assert difference < tolerance, difference
    if control:
        unquantized = UnquantizedActivations(directory).logprobs(TOKENS)[:-1]
        distance = (found - unquantized).abs().mean().item()
        assert distance > 4 * tolerance, distance
