"""Which quantization a server uses, by its own report: a server that fell back silently answers too.

The report is a line of its log. For a server whose log is elsewhere (launcher attach) it is the
configuration, which vLLM serves at /server_info when it was started with VLLM_SERVER_DEV_MODE=1.
"""

from __future__ import annotations

import re
from typing import Any

from quantpipe.errors import SmokeError
from quantpipe.smoke.client import Client
from quantpipe.smoke.server import Server

_EVIDENCE = re.compile(
    # quantpipe's rehearsal plugin, after a complete load; vllm-ascend, when it builds a quantized layer.
    r"quantpipe: quantization=ascend in effect|Using the vLLM Ascend (?:modelslim )?quantization",
    re.IGNORECASE,
)
_READ_LIMIT = 64 << 20


_SERVER_INFO = "/server_info?config_format=json"
_CONFIGURED = re.compile(r"\bquantization=(\w+)")


def effective_quantization(server: Server, client: Client) -> str | None:
    """The log line that reports `ascend` in effect, or else the server's configuration.

    Returns:
        None where there is neither.

    Raises:
        SmokeError: the server runs, but with another quantization.
    """
    if server.log is None:
        return _configured(client)
    with server.log.open("rb") as file:
        file.seek(server.start)
        text = file.read(_READ_LIMIT).decode("utf-8", "replace")
    line = next((line for line in text.splitlines() if _EVIDENCE.search(line)), None)
    if line is None:
        raise SmokeError(
            "the server runs, but without `--quantization ascend` in effect",
            where=str(server.log),
            hint="vllm-ascend (on a CPU quantpipe's plugin) did not recognize the checkpoint as quantized: "
            "check its description, the server's log, and VLLM_LOGGING_LEVEL (INFO is needed)",
        )
    return line.strip()


def _configured(client: Client) -> str | None:
    try:
        config = client.json(_SERVER_INFO).get("vllm_config")
    except SmokeError:  # HTTP 404 as a rule: it is not served
        return None
    found = _quantization_of(config)
    if found is None:
        return None
    if found != "ascend":
        raise SmokeError(
            f"the server runs with quantization {found} and not `ascend`",
            where=client.url + _SERVER_INFO,
            hint="start it with `--quantization ascend`",
        )
    return f"{_SERVER_INFO.partition('?')[0]}: quantization=ascend"


def _quantization_of(config: Any) -> str | None:
    """From vLLM's configuration, an object or, in older versions, text; None where it is not in there."""
    if isinstance(config, str):
        match = _CONFIGURED.search(config)
        return match[1] if match else None
    model = config.get("model_config") if isinstance(config, dict) else None
    if not isinstance(model, dict) or "quantization" not in model:
        return None
    return str(model["quantization"])
