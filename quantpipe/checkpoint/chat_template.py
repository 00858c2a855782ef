"""Whether a model directory has a chat template: what vLLM needs to answer a chat request.

As transformers loads a tokenizer (seen with 4.57.6 and 5.23.0): `chat_template.jinja`, or the key
`chat_template` of tokenizer_config.json. `chat_template.json` is read for processors of images and sound
only; a text model that has nothing else has no template.
"""

from __future__ import annotations

from pathlib import Path

from quantpipe.checkpoint.names import CHAT_TEMPLATE, TOKENIZER_CONFIG
from quantpipe.checkpoint.strict_json import read_object


def has_chat_template(directory: Path) -> bool:
    """Whether the tokenizer can format a chat: without a template vLLM rejects one (HTTP 400).

    Raises:
        OSError: the file cannot be read now.
    """
    if (directory / CHAT_TEMPLATE).is_file():
        return True
    try:
        return bool(read_object(directory / TOKENIZER_CONFIG).get("chat_template"))
    except ValueError:
        return False
