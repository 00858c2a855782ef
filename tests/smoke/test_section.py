"""The smoke section of a recipe, its documentation, and the command line of `quantpipe smoke`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import ROOT, quantpipe, write_recipe
from helpers.configs import QWEN3_235B
from pydantic import ValidationError

from quantpipe.recipe.smoke import Bench, Container, Smoke
from quantpipe.smoke.causes import CAUSES
from quantpipe.smoke.devices import device_processes
from quantpipe.smoke.progress import Watch
from quantpipe.smoke.rules import broken_rules

RECIPE = ROOT / "recipes" / "qwen3-235b-w8a8-rot.yaml"
DOCS = (ROOT / "docs" / "smoke.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"launcher": "attach"}, "needs `url`"),
        ({"launcher": "docker"}, "needs `hardware`"),
        ({"launcher": "podman"}, "needs `hardware`"),
        ({"url": "ftp://x"}, "url"),
        ({"url": "http://user:password@x:1"}, "url"),
        ({"hardware": "a5"}, "hardware"),
        ({"concurrency": 0}, "concurrency"),
        ({"container": {"shm_size": "lots"}}, "shm_size"),
        ({"container": {"devices": [-1]}}, "devices"),
        ({"bench": {"factor": 1.5}}, "factor"),
        ({"bench": "yes please"}, "bench"),
    ],
)
def test_what_a_section_may_not_say(section: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Smoke.model_validate(section)


def test_what_it_may() -> None:
    smoke = Smoke.model_validate(
        {"launcher": "docker", "hardware": "a2", "bench": True, "container": {"devices": [0, 1]}}
    )
    assert smoke.bench == Bench() and smoke.container == Container(devices=(0, 1))
    assert Smoke(launcher="attach", url="http://10.0.0.1:8000").url == "http://10.0.0.1:8000"


def test_the_documentation_names_every_cause_and_every_rule() -> None:
    for cause in CAUSES:
        row = f"| `{cause.id}` | {cause.what} | {cause.hint} | {5 if cause.host else 4} |"
        assert row in DOCS, cause.id
    for rule in ("expert-parallel", "yarn", "fused-mc2", "divides", "devices", "weights-fit"):
        assert f"| `{rule}` |" in DOCS
    assert broken_rules(Smoke(), None) == []


# -- the command line ---------------------------------------------------------------------------------


def test_print_command_for_people_and_for_scripts(tmp_path: Path) -> None:
    options: list[str | Path] = [
        "--recipe",
        RECIPE,
        "--port",
        "8123",
        "--print-command",
        "--launcher",
        "docker",
    ]
    options += ["--hardware", "a3"]
    script = quantpipe("smoke", tmp_path, *options, "--json")
    assert script.status == 0, script.stderr
    arguments = script.json()["arguments"]
    assert arguments[:2] == ["docker", "run"]
    assert arguments[arguments.index("--port") + 1] == "8123"
    assert arguments.count("--device") == 16 + 3
    people = quantpipe("smoke", tmp_path, *options)
    assert shlex.split(people.stdout.replace("\\\n", " ")) == arguments
    assert not (tmp_path / "store").exists()


def test_print_command_of_a_profile_that_breaks_a_rule(tmp_path: Path) -> None:
    config = {**QWEN3_235B, "num_attention_heads": 60}
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = quantpipe("smoke", tmp_path, "--recipe", RECIPE, "--print-command", "--launcher", "native")
    assert done.status == 2
    assert "attention heads are not divisible by the tensor parallel size: 60 heads, tp 8" in done.stderr


def test_a_run_s_plan_tells_of_a_rule_that_the_profile_breaks(tmp_path: Path) -> None:
    """Before anything is fetched or quantized, from the config.json at the source."""
    recipe = write_recipe(tmp_path, smoke={"serve": {"served_model_name": "tiny", "tensor_parallel_size": 3}})
    done = quantpipe("plan", recipe, "--store", tmp_path / "store")
    assert done.status == 2
    assert (
        "attention heads are not divisible by the tensor parallel size: 4 heads, tp 3"
        in done.stdout + done.stderr
    )


def test_launcher_attach_needs_a_url(tmp_path: Path) -> None:
    done = quantpipe("smoke", tmp_path, "--launcher", "attach")
    assert done.status == 2
    assert "needs `url`" in done.stderr and "--url" in done.stderr


# -- the log of a starting server ---------------------------------------------------------------------


def test_progress_is_what_was_not_said_before(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"of an earlier server\n")
    watch = Watch(log, log.stat().st_size)
    watch.look()
    assert (watch.steps, watch.phase) == (0, "starting the server")

    def said(text: bytes) -> bool:
        """Whether this line is progress."""
        before = watch.steps
        with log.open("ab") as file:
            file.write(text)
        watch.look()
        return watch.steps > before

    assert said(b"INFO 07-28 19:00:01 [x.py:1] starting\n")
    assert not said(b"INFO 07-28 19:00:44 [x.py:1] starting\n")
    assert said(b"Loading safetensors checkpoint shards:   0% Completed | 0/56 [00:00<?, ?it/s]\r")
    assert watch.phase == "loading shards 0/56"
    assert said(b"Loading safetensors checkpoint shards:  12% Completed | 7/56 [00:10<01:02]\r")
    assert not said(b"Loading safetensors checkpoint shards:  12% Completed | 7/56 [00:20<02:02]\r")
    assert watch.phase == "loading shards 7/56"
    assert not said(b"half a line")
    assert said(b", and its rest\n")
    assert said(b"Capturing ACL graphs (decode, FULL):  50%|#####     | 3/6 [00:01<00:01]\n")
    assert watch.phase == "capturing graphs 3/6"
    log.unlink()
    watch.look()


def test_the_process_table_of_npu_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "npu-smi"
    tool.write_text(
        """#!/bin/sh
cat <<'END'
+------------------------------------------------------------------------------------------------+
| npu-smi 25.0.rc1                 Version: 25.0.rc1                                             |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| 0     910B3               | OK            | 92.3        38                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          58213/ 65536         |
+---------------------------+---------------+----------------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| 0       0                 | 2131512       | python                   | 54873                   |
| No running processes found in NPU 1                                                            |
+===========================+===============+====================================================+
END
"""
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert device_processes() == {2131512: 54873}
    tool.write_text("#!/bin/sh\nexit 1\n")
    assert device_processes() == {}
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert device_processes() == {}
