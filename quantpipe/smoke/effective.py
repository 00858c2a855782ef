"""Which quantization a server computes with: by its own word, since a silent fallback answers too."""

from __future__ import annotations

import re

from quantpipe.errors import SmokeError
from quantpipe.smoke.server import Server

_EVIDENCE = re.compile(
    # quantpipe's rehearsal plugin, after a complete load; vllm-ascend, when it builds a quantized layer.
    r"quantpipe: quantization=ascend in effect|Using the vLLM Ascend (?:modelslim )?quantization",
    re.IGNORECASE,
)
_READ_LIMIT = 64 << 20


def effective_quantization(server: Server) -> str | None:
    """The log line that says that `ascend` is in effect; None where the log cannot be seen.

    Raises:
        SmokeError: the server is up and its log does not say so.
    """
    if server.log is None:
        return None
    with server.log.open("rb") as file:
        file.seek(server.start)
        text = file.read(_READ_LIMIT).decode("utf-8", "replace")
    line = next((line for line in text.splitlines() if _EVIDENCE.search(line)), None)
    if line is None:
        raise SmokeError(
            "the server runs, but without `--quantization ascend` in effect",
            where=str(server.log),
            hint="vllm-ascend (on a CPU quantpipe's plugin) did not take the checkpoint as quantized: its "
            "description, the plugin's log line, and VLLM_LOGGING_LEVEL (INFO is needed) tell why",
        )
    return line.strip()
