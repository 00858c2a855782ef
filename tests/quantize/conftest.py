"""Small models, quantized by either engine in forked children of one interpreter."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import ROOT

TINY = ROOT / "quantpipe" / "assets" / "tiny-qwen3-moe"
SERVER = Path(__file__).with_name("streaming_server.py")
SHORT = [
    "The sum of two and two is four.",
    "A water tank holds 480 litres, and pipe A fills it.",
    "def add(a, b):\n    return a + b\n",
    "Qu'est-ce que c'est ?",
]
OTHER = ["Nothing of this is in the other set: 31, 57, 1999.", "x = [i * i for i in range(10)]"]


def spec(**changes: Any) -> dict[str, Any]:
    """A recipe's quantize section, as msmodelslim's spec without a dataset."""
    from quantpipe.quantize.spec import build_spec
    from quantpipe.recipe.files import Prompts
    from quantpipe.recipe.quantize import Quantize

    method = changes.pop("method", "flex_smooth_quant")
    none = Prompts(Path("none.json"), ())
    section = Quantize.model_validate(
        {
            "calibration": {"dataset": none},
            "anti_outlier": {"method": method, "dataset": none},
            "device": "cpu",
            "part_size": 1,
            **changes,
        }
    )
    return build_spec(section, Path("none.json"))


class Quantizer:
    """The server's other end."""

    def __init__(self, python: Path, log: Path) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        environment |= {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "OMP_DYNAMIC": "FALSE"}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [str(python), str(SERVER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=environment,
                text=True,
            )

    def close(self) -> None:
        """End the server."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(60)

    def ask(self, **command: Any) -> dict[str, Any]:
        """One command, one answer: status, events, seconds."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(command), file=self.process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def make(self, folder: Path, **model: Any) -> Path:
        """A random model."""
        assert self.ask(do="make", folder=str(folder), tiny=str(TINY), spec=model)["status"] == 0
        return folder

    def run(
        self,
        snapshot: Path,
        out: Path,
        engine: str = "streaming",
        *,
        threads: int = 1,
        prompts: list[str] = SHORT,
        smoothing: list[str] | None = None,
        exact: bool = True,
        identity: dict[str, str] | None = None,
        process: dict[str, Any] | None = None,
        **how: Any,
    ) -> dict[str, Any]:
        """Quantize into `out/checkpoint`, with the state in `out/state`."""
        (out / "checkpoint").mkdir(parents=True, exist_ok=True)
        architecture = json.loads((snapshot / "config.json").read_text())["architectures"][0]
        job = {
            "snapshot": str(snapshot),
            "output": str(out / "checkpoint"),
            "adapter": "Qwen3-235B" if "Moe" in architecture else "Qwen3-32B",
            "spec": {**(process or spec()), "dataset": dataset(out, "calibration", prompts)},
            "device": "cpu",
            "device_indices": None,
            "trust_remote_code": False,
            "engine": engine,
            "exact": exact,
            "state": str(out / "state"),
            "smoothing_dataset": dataset(out, "smoothing", smoothing) if smoothing else None,
            "identity": identity or {},
        }
        return self.ask(do="quantize", job=job, threads=threads, **how)


def dataset(folder: Path, name: str, prompts: list[str]) -> str:
    """A dataset file that msmodelslim reads."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(prompts))
    path.chmod(0o600)
    return str(path)


def tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...], str]]:
    """Type, shape and hash of the bytes of every tensor below a directory, by name."""
    found = {}
    for file in sorted(folder.rglob("*.safetensors")):
        data = file.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = (8 + length + offset for offset in entry["data_offsets"])
                digest = hashlib.sha256(data[begin:end]).hexdigest()
                assert name not in found
                found[name] = (entry["dtype"], tuple(entry["shape"]), digest)
    return found


def files(folder: Path) -> dict[str, str]:
    """The hash of every file below a directory, by relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="session")
def quantizer(quantize_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quantizer]:
    server = Quantizer(quantize_python, tmp_path_factory.mktemp("quantizer") / "log.txt")
    yield server
    server.close()
