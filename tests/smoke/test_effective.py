"""The quantization in effect, by log or by configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from quantpipe.errors import SmokeError
from quantpipe.smoke.client import Client
from quantpipe.smoke.effective import effective_quantization
from quantpipe.smoke.server import Server
from quantpipe.smoke.session import Session


@pytest.mark.parametrize(
    "line",
    [
        "(Worker pid=1) INFO 11-23 20:24:36 [x.py:87] quantpipe: quantization=ascend in effect (CPU)",
        "(EngineCore pid=9) INFO 11-23 19:00:00 [x.py:1] Using the vLLM Ascend modelslim Quantization now!",
        "INFO 02-03 11:22:33 [quant_config.py:88] Using the vLLM Ascend Quantization now!",
    ],
)
def test_the_server_s_own_word_counts(tmp_path: Path, line: str) -> None:
    log = tmp_path / "log"
    log.write_text(f"Using the vLLM Ascend modelslim Quantization now!\n{line}\n")
    start = log.read_text().index("\n") + 1
    nobody = Client("http://127.0.0.1:9", 1)
    assert effective_quantization(Server("u", log, start), nobody) == line
    with pytest.raises(SmokeError, match="without `--quantization ascend` in effect"):
        effective_quantization(Server("u", log, start + len(line)), nobody)


@pytest.mark.parametrize("mode", ["told", "told-as-text"])
def test_a_server_whose_log_is_elsewhere_may_tell_its_configuration(
    server: Callable[[str], Session], mode: str
) -> None:
    assert effective_quantization(Server("u"), server(mode).client) == "/server_info: quantization=ascend"


@pytest.mark.parametrize("mode", ["ready", "told-nothing"])
def test_or_it_may_not(server: Callable[[str], Session], mode: str) -> None:
    assert effective_quantization(Server("u"), server(mode).client) is None


@pytest.mark.parametrize("mode", ["told-none", "told-none-as-text"])
def test_a_configuration_without_quantization_fails(server: Callable[[str], Session], mode: str) -> None:
    with pytest.raises(SmokeError, match="runs with quantization None and not `ascend`"):
        effective_quantization(Server("u"), server(mode).client)
