"""The contracts in .importlinter.toml hold, and lint-imports notices what would break them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import ROOT

CONTRACTS = ".importlinter.toml"
LINT = Path(sys.executable).parent / "lint-imports"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package in a folder with the contracts."""
    if not LINT.is_file():
        pytest.skip("import-linter is not installed: pip install -e .[lint]")
    shutil.copyfile(ROOT / CONTRACTS, tmp_path / CONTRACTS)
    return shutil.copytree(
        ROOT / "quantpipe", tmp_path / "quantpipe", ignore=shutil.ignore_patterns("__pycache__")
    )


def lint(package: Path) -> tuple[int, str]:
    done = subprocess.run([LINT, "--no-cache", CONTRACTS], cwd=package.parent, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def plant(module: Path, line: str) -> None:
    module.write_text(f"{module.read_text('utf-8')}\n\ndef _planted() -> None:\n    {line}\n", "utf-8")


def test_the_package_keeps_its_contracts(package: Path) -> None:
    status, said = lint(package)
    assert status == 0, said


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("durable.py", "import quantpipe.console", "quantpipe.durable -> quantpipe.console"),
        ("store/lease.py", "import quantpipe.pipeline", "quantpipe.store.lease -> quantpipe.pipeline"),
        (
            "verify/stage.py",
            "import quantpipe.quantize.spec",
            "quantpipe.verify.stage -> quantpipe.quantize.spec",
        ),
        (
            "recipe/load.py",
            "import quantpipe.host.machine",
            "quantpipe.recipe.load -> quantpipe.host.machine",
        ),
        ("store/owner.py", "import quantpipe.store.lease", "No cycles are allowed in quantpipe.store"),
        ("verify/values.py", "import torch", "quantpipe.verify.values -> torch"),
        ("smoke/model.py", "import transformers", "quantpipe.smoke.model -> transformers"),
        ("quantize/stage.py", "import msmodelslim", "quantpipe.quantize.stage -> msmodelslim"),
        ("smoke/model.py", "import vllm", "quantpipe.smoke.model -> vllm"),
        (
            "quantize/finish.py",
            "import quantpipe.quantize.worker.device",
            "quantpipe.quantize.finish -> quantpipe.quantize.worker.device",
        ),
        ("durable.py", "import yaml", "quantpipe.quantize.worker is not allowed to import yaml"),
    ],
)
def test_a_planted_import_is_found(package: Path, module: str, line: str, broken: str) -> None:
    plant(package / module, line)
    status, said = lint(package)
    assert status == 1, said
    assert broken in said


def test_a_new_room_needs_a_place(package: Path) -> None:
    (package / "attic.py").write_text("")
    status, said = lint(package)
    assert status == 1
    assert "attic" in said
