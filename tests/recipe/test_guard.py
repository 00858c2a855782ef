"""What a recipe may not set is refused, with file, line and key, and its value is not shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.commands import TINY_RECIPE, write_recipe
from pydantic import ValidationError

from quantpipe.errors import RecipeError
from quantpipe.recipe import guard
from quantpipe.recipe.load import load_recipe
from quantpipe.recipe.serve import Serve
from quantpipe.recipe.smoke import Container
from quantpipe.redact import redact


def whys(found: guard.Found) -> list[str]:
    return [what for _, what in found]


@pytest.mark.parametrize(
    "name",
    [
        *("LD_PRELOAD", "LD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES"),
        *("PYTHONPATH", "PYTHONSTARTUP", "PYTHONHOME"),
        *("PATH", "HOME", "BASH_ENV", "GIT_SSH_COMMAND", "CC"),
        *("QUANTPIPE_RUN_ID", "HF_HUB_OFFLINE", "XDG_CONFIG_HOME"),
        *("ASCEND_CUSTOM_OPP_PATH", "HCCL_SO_PATH", "VLLM_LOGGING_CONFIG_PATH", "VLLM_MODEL_REDIRECT_PATH"),
        *("VLLM_SERVER_DEV_MODE", "BASH_FUNC_ls%%", "A=B", "", "\u00c4"),
    ],
)
def test_refused_variables(name: str) -> None:
    with pytest.raises(ValidationError):
        Serve(environment={name: "x"})


@pytest.mark.parametrize(
    "name",
    [
        *("PYTHONHASHSEED", "ASCEND_RT_VISIBLE_DEVICES", "ASCEND_PROCESS_LOG_PATH"),
        *("HCCL_BUFFSIZE", "OMP_NUM_THREADS"),
        *("VLLM_USE_MODELSCOPE", "VLLM_API_KEY", "VLLM_PLUGINS", "TASK_QUEUE_ENABLE", "TMPDIR", "NO_PROXY"),
    ],
)
def test_allowed_variables(name: str) -> None:
    assert Serve(environment={name: "x"}).environment == {name: "x"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--host", "0.0.0.0"],
        ["--host=0.0.0.0"],
        ["--trust-remote-code"],
        ["--trust_remote_code"],
        ["--no-trust-remote-code"],
        ["--trust"],  # argparse takes it for the only option that begins so
        ["--middlew", "x.Y"],
        ["--served-model-name", "other"],
        ["--max_model_len=5"],
        ["--config", "/x.yaml"],
        ["--api-key", "geheim-key"],
        ["--hf-token=geheim-key"],
        ["--ssl-key", "/k"],
        ["-tp", "8"],
        ["-tp=8"],
        ["-q", "awq"],
        ["-qawq"],
        ["--worker-cls", "x.Y"],
        ["--worker-extension-cls=x.Y"],
        ["--reasoning-parser-plugin", "/x.py"],
        ["--reasoning-parser-p", "/x.py"],
        ["--hf-overrides.auto_map.AutoModel", "x--y.Z"],
        ["--distributed-executor-backend", "my.Executor"],
        ["--distributed-executor-backend=my.Executor"],
        ["--distrib", "my.Executor"],
        ["--load-format", "dummy"],
        ["--kv-transfer-config", '{"kv_connector_module_path": "x"}'],
        ["--kv-transfer-config", '{"kv_connector_\\u006dodule_path": "x"}'],
        ['--kv-transfer-config={"a": [{"kv_connector_module_path": "x"}]}'],
        ["--x-list", ' [{"kv_connector_module_path": "x"}]'],
        ["--kv-transfer-config.kv_connector_module_path", "x"],
        ["--structured-outputs-config", '{"reasoning_parser_plugin": "/x.py"}'],
        ["--structured-outputs-config.reasoning_parser_plugin", "/x.py"],
        ["--speculative-config", '{"method": "custom_class", "model": "x.Y"}'],
        ["--speculative-config.method", "custom_class"],
        ["--speculative-config.method=custom_class"],
        ["--spec-method", "custom_class"],
        ["--ec-manager-config", '{"encoder_cache_manager_cls": "x.Y"}'],
        ["--kv-transfer-config", '{"kv_connector_extra_config": {"spec_module_path": "x"}}'],
        ["--kv_transfer_config.kv_connector_module_path+", "x"],
        ["--"],
        ["-"],
    ],
)
def test_refused_options(arguments: list[str]) -> None:
    found = whys(guard.refused_options(arguments))
    assert found and "geheim" not in "".join(found)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--kv-cache-dtype", "auto", "--enable-prefix-caching", "--no-enable-prefix-caching"],
        ["--reasoning-parser", "qwen3", "--tool-call-parser", "hermes", "--enable-auto-tool-choice"],
        ["--distributed-executor-backend", "ray", "--load-format=fastsafetensors"],
        ["--max-logprobs", "-1", "--x", "-.5", "-O3", "-pp", "2", "-O", "3"],
        ["--speculative-config", '{"method": "ngram", "num_speculative_tokens": 2}'],
        ["--kv-transfer-config", '{"kv_connector": "MooncakeConnectorV1", "kv_role": "kv_producer"}'],
        ["--chat-template", "{% if x %}{{ x }}{% endif %}"],
        ["--x-config", '{"a":' * 100_000],
        ["--structured-outputs-config", '{"backend": "xgrammar"}', "--attention-config.backend", "CUSTOM"],
        ["--spec-method", "ngram", "--moe-backend", "triton"],
        ["--safetensors-load-strategy", "prefetch", "--api-server-count", "2"],
    ],
)
def test_allowed_options(arguments: list[str]) -> None:
    assert Serve(extra_args=tuple(arguments)).extra_args == tuple(arguments)


@pytest.mark.parametrize(
    "section",
    [
        {"hf_overrides": {"auto_map": {"AutoModel": "x.Y"}}},
        {"hf_overrides": {"text_config": [{"auto_map": {}}]}},
        {"compilation_config": {"inductor_passes": {"x": "y.Z"}}},
        {"compilation_config": {"backend": "my.Backend"}},
        {"additional_config": {"cache_dir": "/x"}},
        {"served_model_name": "--middleware=x.Y"},
        {"served_model_name": ""},
    ],
)
def test_refused_keys_and_names(section: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Serve(**section)


@pytest.mark.parametrize(
    "mount",
    [
        *("/:/host", "/:/host:ro", "//:/host", "/../:/host", "/tmp/..:/host"),
        *("/etc:/etc", "/root/:/root", "/var:/v"),
        *("/var/run/docker.sock:/var/run/docker.sock", "/run:/run", "/var/run/../run/docker.sock:/x"),
        *("/srv/other.sock:/x", "/run/user/0/podman:/x", "/var/lib:/x", "/var/lib/docker/volumes:/x"),
        *("/proc:/p", "/dev:/dev", "/sys/fs/cgroup:/x", "/home/me/.ssh:/x", "/root/.aws/credentials:/x"),
        *("/data", "data", "/data:relative", "/data:/", "/data:/x:shared", "/data:/x:ro,exec"),
        *("./x:/x", "-v:/x", "/a:/b:ro:rw", ":/x", "/data:", "../x:/x"),
    ],
)
def test_refused_mounts(mount: str) -> None:
    with pytest.raises(ValidationError):
        Container(mounts=(mount,))


@pytest.mark.parametrize(
    "mount",
    [
        *("/data/cache:/cache", "/root/.cache:/root/.cache:rw", "/etc/hccn.conf:/etc/hccn.conf:ro"),
        *("cache:/root/.cache", "/usr/local/Ascend/driver:/usr/local/Ascend/driver:ro,z"),
        *("/mnt/nfs:/mnt/nfs", "/home/me/models:/m"),
    ],
)
def test_allowed_mounts(mount: str) -> None:
    assert Container(mounts=(mount,)).mounts == (mount,)


@pytest.mark.parametrize("image", ["--privileged", "-v/:/host", "", "a b", "a;b"])
def test_an_image_is_no_option(image: str) -> None:
    with pytest.raises(ValidationError):
        Container(image=image)


def test_every_place_is_named_with_its_line_and_no_value(tmp_path: Path) -> None:
    serve = {
        "environment": {"OMP_NUM_THREADS": "1", "LD_PRELOAD": "/geheim.so", "PATH": "/geheim"},
        "extra_args": ["--block-size", "128", "--api-key=geheim"],
        "hf_overrides": {"deep": {"auto_map": {"geheim": "x"}}},
    }
    path = write_recipe(tmp_path, smoke={"serve": serve})
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    lines = path.read_text().splitlines()
    details = caught.value.details
    for key, text in {
        "smoke.serve.environment.LD_PRELOAD": "LD_PRELOAD:",
        "smoke.serve.environment.PATH": "PATH:",
        "smoke.serve.extra_args.2": "--api-key=geheim",
        "smoke.serve.hf_overrides.deep.auto_map": "auto_map:",
    }.items():
        line = next(number for number, one in enumerate(lines, 1) if text in one)
        assert any(one.startswith(f"{path.name}:{line}: {key}: ") for one in details), (key, details)
    assert len(details) == 4
    assert "geheim" not in str(details)


def test_the_shipped_recipes_keep_to_it() -> None:
    """All load; and there is something to check in them."""
    for path in TINY_RECIPE.parent.glob("*.yaml"):
        load_recipe(path)
    shipped = yaml.safe_load((TINY_RECIPE.parent / "qwen3-235b-w8a8-rot.yaml").read_text())
    assert len(shipped["smoke"]["serve"]["environment"]) > 5


def test_short_values_of_secrets_are_not_masked_everywhere() -> None:
    Serve(
        environment={"SOME_KEY": "true", "OTHER_KEY": "geheim-value-7"},
        extra_args=("--x-token", "geheim-value-8"),
    )
    assert redact("true geheim-value-7 geheim-value-8") == "true *** ***"
