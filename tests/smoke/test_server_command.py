from __future__ import annotations

import json
import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

from quantpipe.recipe.load import load_recipe
from quantpipe.recipe.serve import Serve
from quantpipe.smoke.server_command import ServerCommand, serve_command, smoke_command

RECIPES = Path(__file__).parent.parent.parent / "recipes"

# The single-node deployment of vLLM-Ascend's tutorial on Qwen3-235B (section 5.1), for Atlas 800I A2 and A3.
TUTORIAL_ENVIRONMENT = {
    "VLLM_USE_MODELSCOPE": "True",
    "ASCEND_RT_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7",
    "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
    "HCCL_BUFFSIZE": "512",
    "OMP_PROC_BIND": "false",
    "OMP_NUM_THREADS": "1",
    "TASK_QUEUE_ENABLE": "1",
}
TUTORIAL_OPTIONS = {
    "--tensor-parallel-size": "8",
    "--data-parallel-size": "1",
    "--seed": "1024",
    "--quantization": "ascend",
    "--served-model-name": "qwen3",
    "--max-num-seqs": "32",
    "--max-model-len": "131072",
    "--max-num-batched-tokens": "8096",
    "--enable-expert-parallel": None,
    "--trust-remote-code": None,
    "--gpu-memory-utilization": "0.95",
    "--hf-overrides": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1000000,
            "factor": 4,
            "original_max_position_embeddings": 32768,
        }
    },
    "--compilation-config": {"cudagraph_mode": "FULL_DECODE_ONLY"},
    "--additional-config": {"enable_flashcomm1": True},
    "--async-scheduling": None,
}


def options(arguments: list[str]) -> dict[str, object]:
    """Options with their values; JSON decoded, None for switches. No option may come twice."""
    found: dict[str, object] = {}
    for position, argument in enumerate(arguments):
        if argument.startswith("--"):
            assert argument not in found
            rest = arguments[position + 1 : position + 2]
            value = rest[0] if rest and not rest[0].startswith("--") else None
            found[argument] = json.loads(value) if value and value.startswith("{") else value
    return found


def test_the_235b_recipe_serves_as_the_tutorial_does() -> None:
    recipe = load_recipe(RECIPES / "qwen3-235b-w8a8-rot.yaml")
    command = serve_command("/mnt/weights/x", recipe.smoke.serve)
    assert command.arguments[:3] == ("vllm", "serve", "/mnt/weights/x")
    assert options(list(command.arguments)) == TUTORIAL_OPTIONS
    extra = command.environment.keys() - TUTORIAL_ENVIRONMENT.keys()
    assert extra == {"VLLM_ENGINE_READY_TIMEOUT_S"}
    assert {**command.environment, **TUTORIAL_ENVIRONMENT} == command.environment


def test_the_smoke_load_uses_the_same_profile(tmp_path: Path) -> None:
    serve = load_recipe(RECIPES / "qwen3-235b-w8a8-rot.yaml").smoke.serve
    command = smoke_command("native", Path("/env/bin/python"), tmp_path, serve, 8123)
    given = options(list(command.arguments))
    address = {"--model": str(tmp_path), "--host": "127.0.0.1", "--port": "8123"}
    assert given == {**TUTORIAL_OPTIONS, **address}
    assert command.arguments[0] == "/env/bin/python"
    assert command.environment.items() >= TUTORIAL_ENVIRONMENT.items()
    assert command.environment["HF_HUB_OFFLINE"] == "1"
    assert command.environment["VLLM_NO_USAGE_STATS"] == "1"
    assert "VLLM_CPU_KVCACHE_SPACE" not in command.environment


def test_a_rehearsal_adds_what_a_cpu_needs_once(tmp_path: Path) -> None:
    for serve in (Serve(), Serve(enforce_eager=True)):
        command = smoke_command("cpu", Path("/p"), tmp_path, serve, 1)
        assert command.arguments.count("--enforce-eager") == 1
        assert int(command.environment["VLLM_CPU_KVCACHE_SPACE"]) >= 1


def test_the_recipe_s_environment_wins(tmp_path: Path) -> None:
    serve = Serve(environment={"VLLM_CPU_KVCACHE_SPACE": "7", "VLLM_LOGGING_LEVEL": "DEBUG"})
    command = smoke_command("cpu", Path("/p"), tmp_path, serve, 1)
    assert command.environment["VLLM_CPU_KVCACHE_SPACE"] == "7"
    assert command.environment["VLLM_LOGGING_LEVEL"] == "DEBUG"


def test_only_what_is_set_becomes_an_option() -> None:
    assert options(list(serve_command("x", Serve()).arguments)) == {
        "--quantization": "ascend",
        "--served-model-name": "qwen3",
        "--tensor-parallel-size": "1",
        "--data-parallel-size": "1",
    }
    serve = Serve(seed=0, dtype="bfloat16", extra_args=("--kv-cache-dtype", "auto"))
    given = options(list(serve_command("x", serve).arguments))
    assert given["--seed"] == "0" and given["--dtype"] == "bfloat16" and given["--kv-cache-dtype"] == "auto"


def test_what_a_person_copies_into_a_shell_is_the_command() -> None:
    """Run by a real shell, with `vllm` replaced by something that prints what it was given."""
    serve = Serve(
        served_model_name="a 'quoted' name",
        enable_expert_parallel=True,
        hf_overrides={"a": "b c $HOME"},
        extra_args=("--v", "x y", "--flag"),
        environment={"SPACED": "a b", "QUOTED": "it's"},
    )
    command = serve_command("/path with space/x", serve)
    arguments = ("python3", "-c", "import os,sys,json; print(json.dumps([sys.argv[1:], dict(os.environ)]))")
    shown = ServerCommand((*arguments, *command.arguments[1:]), command.environment).shell()
    printed = subprocess.run(["sh", "-c", shown], capture_output=True, text=True, check=True).stdout
    given, environment = json.loads(printed)
    assert given == list(command.arguments[1:])
    assert environment["SPACED"] == "a b"
    assert environment["QUOTED"] == "it's"


def test_an_option_a_line() -> None:
    lines = serve_command("/x", Serve(enforce_eager=True, environment={"A": "1"})).shell().splitlines()
    assert lines[0] == "export A=1"
    assert lines[1] == "vllm serve /x \\"
    assert lines[2].strip() == "--quantization ascend \\"
    assert lines[-1].strip() == "--enforce-eager"
    assert all(shlex.split(line.rstrip("\\"))[0].startswith("--") for line in lines[2:])


def test_the_full_environment() -> None:
    command = ServerCommand(("x",), {"A": "mine"})
    base = {
        "A": "theirs",
        "LANG": "C",
        "HF_TOKEN": "x",
        "VIRTUAL_ENV": "/ours",
        "PYTHONPATH": "/usr/local/Ascend/tbe",
    }
    assert command.full_environment("run-1", base) == {
        "A": "mine",
        "LANG": "C",
        "PYTHONPATH": "/usr/local/Ascend/tbe",
        "QUANTPIPE_RUN_ID": "run-1",
    }
    assert command.full_environment("r")["PATH"] == os.environ["PATH"]
    assert replace(command, passed=("HF_*",)).full_environment("run-1", base)["HF_TOKEN"] == "x"
    assert command.to_json() == {"arguments": ["x"], "environment": {"A": "mine"}}


SECRETIVE = Serve(
    extra_args=(
        "--some-token",
        "geheim-1",
        "--other-key=geheim-2",
        "--x-config",
        '{"a": {"api_key": "geheim-3"}}',
    ),
    additional_config={"password": "geheim-4", "max_tokens": 7},
    environment={"VLLM_API_KEY": "geheim-5", "PROXY": "http://me:geheim-6@proxy", "MAX_TOKENS": "9"},
)


def test_secrets_are_in_nothing_that_is_printed() -> None:
    command = serve_command("/x", SECRETIVE)
    shown = [json.dumps(command.to_json()), json.dumps(command.describe()), command.shell()]
    assert not [text for text in shown if "geheim" in text]
    environment = command.to_json()["environment"]
    assert environment == {"VLLM_API_KEY": "***", "PROXY": "http://***@proxy", "MAX_TOKENS": "9"}
    assert command.to_json()["arguments"][-5:] == [
        *("--some-token", "***", "--other-key=***", "--x-config"),
        '{"a": {"api_key": "***"}}',
    ]
    assert "geheim-5" in command.full_environment("r").values()  # the server itself needs them


def test_the_shell_takes_a_secret_from_its_own_environment() -> None:
    serve = Serve(environment={"VLLM_API_KEY": "geheim", "PLAIN": "1"})
    shown = ServerCommand(("env",), serve_command("/x", serve).environment).shell()
    outer = {"PATH": os.environ["PATH"]}
    done = subprocess.run(["sh", "-c", shown], capture_output=True, text=True, env=outer, check=False)
    assert done.returncode != 0 and "VLLM_API_KEY" in done.stderr
    outer["VLLM_API_KEY"] = "mine"
    done = subprocess.run(["sh", "-c", shown], capture_output=True, text=True, env=outer, check=True)
    assert "VLLM_API_KEY=mine\n" in done.stdout and "PLAIN=1\n" in done.stdout
