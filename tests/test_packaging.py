"""What `pip install quantpipe-*.whl` gives: recipes, calibration data and the command, from any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
from filelock import FileLock
from helpers.commands import ROOT, Finished, environment

from quantpipe import __version__

TINY = "tiny-qwen3-moe-w8a8-rot"


@dataclass(frozen=True)
class Installed:
    """A fresh environment with the wheel; the core's dependencies come from the one that runs the tests."""

    wheel: Path
    bin: Path

    def run(self, folder: Path, *command: str | Path, **changes: str) -> Finished:
        program, *arguments = map(str, command)
        variables = {name: value for name, value in environment(**changes).items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [str(self.bin / program), *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=600,
            env=variables,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr)


def _wheel(folder: Path) -> Path:
    """Built in a copy: a build leaves files next to its sources, and they would get into the next wheel."""
    if int(metadata.version("setuptools").partition(".")[0]) < 77:
        pytest.skip("needs setuptools 77 or newer in this environment: run `make setup`")
    source = folder / "source"
    source.mkdir()
    for name in ("quantpipe", "recipes", "calib_data"):
        unwanted = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, *offline, "--wheel-dir", str(folder), str(source)], check=True)
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(session_folder: Path) -> Iterator[Installed]:
    folder = session_folder / "packaging"
    with FileLock(session_folder / "packaging.lock"):
        if not (folder / "done").exists():
            folder.mkdir()
            wheel = _wheel(folder)
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
            [site] = (folder / "venv" / "lib").glob("python*/site-packages")
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python"]
            install = ["install", "--quiet", "--no-deps", "--no-index", str(wheel)]
            subprocess.run([*pip, str(folder / "venv" / "bin" / "python"), *install], check=True)
            # After the wheel in sys.path; a .pth file in there, the editable quantpipe's, does not count.
            (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
            (folder / "done").touch()
    [wheel] = folder.glob("*.whl")
    yield Installed(wheel, folder / "venv" / "bin")


def test_the_wheel_holds_recipes_calibration_data_and_all_modules(installed: Installed) -> None:
    names = set(zipfile.ZipFile(installed.wheel).namelist())
    for folder in ("recipes", "calib_data"):
        for path in (ROOT / folder).iterdir():
            assert f"quantpipe/assets/{folder}/{path.name}" in names
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "quantpipe").rglob("*.py")}
    assert modules <= names
    assert {name.partition("/")[0] for name in names} == {"quantpipe", f"quantpipe-{__version__}.dist-info"}


def test_what_is_imported_is_declared(installed: Installed) -> None:
    archive = zipfile.ZipFile(installed.wheel)
    text = archive.read(f"quantpipe-{__version__}.dist-info/METADATA").decode()
    needed = [
        line for line in text.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line
    ]
    assert {"requests", "urllib3"} <= {line.removeprefix("Requires-Dist: ").split(">")[0] for line in needed}
    assert "filelock" not in " ".join(needed)


def test_from_another_folder_a_recipe_is_listed_copied_and_checked(
    installed: Installed, tmp_path: Path
) -> None:
    listed = installed.run(tmp_path, "quantpipe", "recipe", "list")
    assert listed.status == 0, listed.stderr
    assert TINY in listed.stdout.splitlines()
    assert str(ROOT / "recipes") not in listed.stdout
    copied = installed.run(tmp_path, "quantpipe", "recipe", "copy", "qwen3-235b-w8a8-rot", "my.yaml")
    assert copied.status == 0, copied.stderr
    checked = installed.run(tmp_path, "quantpipe", "recipe", "check", "my.yaml", TINY)
    assert checked.status == 0, checked.stderr
    assert checked.stdout.startswith("my.yaml: ok, digest 53d238b1d0fb\n")  # as from a checkout


def test_python_m_quantpipe(installed: Installed, tmp_path: Path) -> None:
    done = installed.run(tmp_path, "python", "-m", "quantpipe", "--version")
    assert done.stdout == f"quantpipe, version {__version__}\n"
    where = installed.run(tmp_path, "python", "-c", "import quantpipe; print(quantpipe.__file__)")
    assert Path(where.stdout).is_relative_to(installed.bin.parent)


@pytest.mark.slow
@pytest.mark.quantize_env
@pytest.mark.serve_env
def test_the_tiny_recipe_by_its_name(
    installed: Installed, tmp_path: Path, quantize_python: Path, serve_python: Path
) -> None:
    interpreters = {
        "QUANTPIPE_QUANTIZE_PYTHON": os.path.abspath(quantize_python),  # noqa: PTH100  (links stay)
        "QUANTPIPE_SERVE_PYTHON": os.path.abspath(serve_python),  # noqa: PTH100
    }
    done = installed.run(tmp_path, "quantpipe", "run", TINY, **interpreters)
    assert done.status == 0, done.stderr
    current = tmp_path / "store" / "models" / TINY / "current"
    assert str(current.readlink()).startswith("ea3ca92ca8ba")
    again = installed.run(tmp_path, "quantpipe", "run", TINY, **interpreters)
    assert "up to date" in again.stdout
