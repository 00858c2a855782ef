"""Registration: through vLLM's own plugin loading, once, and not where another provider takes precedence."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vllm.model_executor.custom_op import op_registry_oot
from vllm.model_executor.layers import quantization
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig
from vllm.platforms import current_platform
from vllm.plugins import load_general_plugins

from quantpipe.vllm_ascend_cpu import register


@contextmanager
def nothing_registered() -> Iterator[list[str]]:
    """Undo the registration and collect the plugin's log lines; afterwards, undo what was registered."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("vllm.quantpipe")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)  # vLLM 0.32 configures its own loggers later than it loads plugins
    _forget()
    try:
        yield lines
    finally:
        _forget()
        logger.removeHandler(handler)


def _forget() -> None:
    op_registry_oot.pop("RMSNorm", None)
    quantization._CUSTOMIZED_METHOD_TO_QUANT_CONFIG.pop("ascend", None)
    if "ascend" in quantization.QUANTIZATION_METHODS:
        quantization.QUANTIZATION_METHODS.remove("ascend")


def registered() -> bool:
    return "ascend" in quantization.QUANTIZATION_METHODS


def test_vllm_finds_the_entry_point(tmp_path: Path) -> None:
    with nothing_registered():
        load_general_plugins()
        assert registered()
        assert quantization.get_quantization_config("ascend").__module__ == "quantpipe.vllm_ascend_cpu.config"
        assert "RMSNorm" in op_registry_oot


def test_it_registers_once_and_says_so(tmp_path: Path) -> None:
    with nothing_registered() as lines:
        register()
        first = quantization.get_quantization_config("ascend")
        register()
        assert quantization.get_quantization_config("ascend") is first
        assert lines == ["quantpipe: registered --quantization ascend for rehearsals on the CPU"]


def test_it_stands_aside_for_the_npu_packages(tmp_path: Path) -> None:
    for package in ("vllm_ascend", "torch_npu"):
        (tmp_path / package).mkdir()
        (tmp_path / package / package).mkdir()
        (tmp_path / package / package / "__init__.py").write_text("raise ImportError('must not be imported')")
        sys.path.insert(0, str(tmp_path / package))
        try:
            with nothing_registered() as lines:
                register()
                assert not registered()
                assert lines == [
                    f"quantpipe: CPU rehearsal of --quantization ascend is disabled: {package} is installed"
                ]
        finally:
            sys.path.remove(str(tmp_path / package))


def test_it_stands_aside_on_other_platforms(tmp_path: Path) -> None:
    platform = type(current_platform)
    original = platform.is_cpu
    platform.is_cpu = lambda self: False
    try:
        with nothing_registered() as lines:
            register()
            assert not registered()
            assert "RMSNorm" not in op_registry_oot
            assert "not CPU" in lines[0]
    finally:
        platform.is_cpu = original


def test_it_stands_aside_for_another_ascend(tmp_path: Path) -> None:
    with nothing_registered() as lines:

        @quantization.register_quantization_config("ascend")
        class Other(QuantizationConfig):  # type: ignore[misc]
            pass

        register()
        assert quantization.get_quantization_config("ascend") is Other
        assert "RMSNorm" not in op_registry_oot
        assert "it is registered by" in lines[0]


def test_it_stands_aside_for_another_rmsnorm(tmp_path: Path) -> None:
    with nothing_registered() as lines:
        op_registry_oot["RMSNorm"] = Path
        register()
        assert not registered()
        assert op_registry_oot["RMSNorm"] is Path
        assert "RMSNorm is replaced by pathlib" in lines[0]
