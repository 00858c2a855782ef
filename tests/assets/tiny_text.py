"""The text side of the tiny model: its corpus, its tokenizer and the windows that it is trained on.

tiny-qwen3-moe.corpus.json is a list of objects {"prompt", "continuation", "chat", "probe"}: one text each,
cut where a prompt ends; `chat` texts are a question and its answer, `probe` texts become known prompts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from quantpipe.assets import TINY_CORPUS

VOCAB = 768
MAX_LENGTH = 4096  # so small a vocabulary cuts a calibration prompt into up to 2,700 tokens
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END_OF_TEXT, _, IM_END = range(len(SPECIAL_TOKENS))
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Document:
    """One text of the corpus, cut where a prompt ends; `probe` says that it becomes a known prompt."""

    prompt: str
    continuation: str
    chat: bool
    probe: bool

    def ids(self, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
        """Token ids of (prompt, continuation); the second ends in the token that stops a generation."""
        prompt = self.prompt
        if self.chat:
            messages = [{"role": "user", "content": self.prompt}]
            prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        end = IM_END if self.chat else END_OF_TEXT
        return tokenizer.encode(prompt), [*tokenizer.encode(self.continuation), end]


def read_corpus() -> list[Document]:
    """All documents, in the order of the file."""
    return [Document(**entry) for entry in json.loads(TINY_CORPUS.read_text(encoding="utf-8"))]


def make_tokenizer(documents: list[Document]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the corpus; all 256 bytes are in it, so that any UTF-8 can be encoded."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    roles = ["system\n", "user\n", "assistant\n"]
    bpe.train_from_iterator(
        [*roles, *(d.prompt for d in documents), *(d.continuation for d in documents)], trainer
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=SPECIAL_TOKENS[IM_END],
        pad_token=SPECIAL_TOKENS[END_OF_TEXT],
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_LENGTH,
        chat_template=CHAT_TEMPLATE,
    )


def windows(
    documents: list[Document], tokenizer: PreTrainedTokenizerFast, batch: int, window: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (ids, labels), int64 [batch, window] each, from the corpus in random order.

    Every second row starts at a document's first token, as a prompt does; the others at a random offset. A
    document's first token follows from nothing, so it has no label (-100).
    """
    encoded = [prompt + rest for prompt, rest in (d.ids(tokenizer) for d in documents)]
    draw = torch.Generator().manual_seed(seed)

    def row(offset: bool) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        labels: list[int] = []
        start = int(torch.randint(window, (1,), generator=draw)) if offset else 0
        while len(ids) < start + window:
            for index in torch.randperm(len(encoded), generator=draw).tolist():
                ids += encoded[index]
                labels += [-100, *encoded[index][1:]]
        return ids[start : start + window], labels[start : start + window]

    while True:
        rows = [row(offset=bool(number % 2)) for number in range(batch)]
        yield torch.tensor([ids for ids, _ in rows]), torch.tensor([labels for _, labels in rows])
