"""The main job with the real parts: msmodelslim quantizes, vLLM loads, the pointer moves, things go wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import QUANTPIPE, ROOT, environment, quantpipe, write_recipe
from helpers.processes import processes_of
from helpers.rot import flip

NAME = "tiny-qwen3-moe-w8a8-rot"
pytestmark = [pytest.mark.quantize_env, pytest.mark.serve_env]


def current(store: Path) -> str:
    return str((store / "models" / NAME / "current").readlink())


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# -- what a published checkpoint is ---------------------------------------------------------------


def test_published_directory_is_complete_readonly_and_named_by_its_manifest(published_store: Path) -> None:
    from quantpipe.store.manifest import Manifest, build, check

    digest = current(published_store)
    checkpoint = published_store / "models" / NAME / digest
    provenance = json.loads((checkpoint / "quantpipe.json").read_text())
    manifest = Manifest.from_json(provenance["manifest"], where="quantpipe.json")
    assert manifest.digest() == digest
    beside = ("quantpipe.json", "README.md")
    assert manifest.beside() == beside
    assert check(checkpoint, manifest, jobs=2, exclude=beside) == []
    assert build(checkpoint, jobs=2, exclude=beside) == manifest
    for path in checkpoint.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o444)
    runs = list((published_store / "runs" / NAME).iterdir())
    assert runs and not any((run / "staging").exists() for run in runs)


def test_published_directory_has_what_serving_needs(published_store: Path) -> None:
    checkpoint = published_store / "models" / NAME / current(published_store)
    config = json.loads((checkpoint / "config.json").read_text())
    description = json.loads((checkpoint / "quant_model_description.json").read_text())
    index = json.loads((checkpoint / "model.safetensors.index.json").read_text())
    assert config["quantize"] == "w8a8_dynamic"
    assert "quantization_config" not in config
    assert None not in description.values()
    assert description["model.layers.0.self_attn.q_proj.weight"] == "W8A8"
    assert description["model.layers.0.mlp.experts.0.up_proj.weight"] == "W8A8_DYNAMIC"
    assert description["model.layers.0.mlp.gate.weight"] == "FLOAT"
    assert description["lm_head.weight"] == "FLOAT"
    shards = set(index["weight_map"].values())
    assert {path.name for path in checkpoint.glob("*.safetensors")} == shards
    assert (checkpoint / "tokenizer.json").is_file()
    card = (checkpoint / "README.md").read_text()
    assert "library_name: vllm" in card and "72 W8A8\\_DYNAMIC" in card


def test_receipts_tell_of_every_stage_and_every_probe(published_store: Path) -> None:
    digest = current(published_store)
    receipts = json.loads((published_store / "models" / NAME / "receipts" / f"{digest}.json").read_text())
    assert list(receipts) == ["fetch", "quantize", "verify", "smoke", "publish"]
    assert receipts["quantize"]["figures"]["versions"]["msmodelslim"]
    probes = receipts["smoke"]["figures"]["probes"]
    assert len(probes) == 3
    assert all(probe["matches"] for probe in probes)
    assert receipts["smoke"]["figures"]["ready_seconds"] > 0


def test_the_run_ended_with_a_report(published_store: Path) -> None:
    digest = current(published_store)
    folder = published_store / "models" / NAME / "reports" / digest
    report = json.loads((folder / "report.json").read_text())
    assert (report["digest"], report["state"]) == (digest, "current")
    assert [kind["kind"] for kind in report["sizes"]["kinds"]] == [
        "embed",
        "head",
        "router",
        "norm",
        "attention",
        "expert",
    ]
    assert sum(kind["bytes"] for kind in report["sizes"]["kinds"]) < report["sizes"]["bytes"]
    costs = {stage["stage"]: stage for stage in report["stages"]}
    assert costs["quantize"]["memory_bytes"] > costs["fetch"]["memory_bytes"] > 0
    assert costs["quantize"]["planned_seconds"] > 0
    assert "vllm serve" in (folder / "report.md").read_text()
    assert (folder / "report.html").stat().st_size < 100_000


def test_second_run_is_up_to_date_and_imports_nothing_heavy(_published: Path, small_recipe: Path) -> None:
    code = (
        "import sys, time; began = time.monotonic()\n"
        f"sys.argv = ['quantpipe', 'run', {str(small_recipe)!r}, '--store', {str(_published)!r}, '--json']\n"
        "from quantpipe.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: status = end.code\n"
        "heavy = {'torch', 'vllm', 'transformers', 'msmodelslim', 'huggingface_hub', 'numpy'}\n"
        "heavy |= {'asyncio', 'ssl', 'pydantic_settings'}\n"
        "heavy |= {'quantpipe.smoke.load', 'quantpipe.fetch.transfer', 'quantpipe.quantize.worker_process'}\n"
        "print(status, sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    before = tree(_published / "runs")
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    assert json.loads(done.stdout)["status"] == "up to date"
    assert done.stderr.splitlines()[-1] == "0 []"
    assert tree(_published / "runs") == before


# -- what may go wrong: the documented code, a message that helps, an unharmed store ----------------


def assert_unharmed_and_mended(store: Path, digest: str, recipe: Path, *arguments: str | Path) -> None:
    """The pointer is as it was, and the fixed run succeeds with the same digest."""
    assert current(store) == digest
    done = quantpipe("run", recipe, "--store", store, *arguments)
    assert done.status == 0, done.stderr
    assert current(store) == digest


def test_missing_dataset(published_store: Path, small_recipe: Path, tmp_path: Path) -> None:
    digest = current(published_store)
    broken = write_recipe(tmp_path, quantize={"calibration": {"dataset": "gone.json"}})
    done = quantpipe("run", broken, "--store", published_store)
    assert done.status == 2
    line = next(line for line in done.stderr.splitlines() if "quantize.calibration.dataset" in line)
    assert str(tmp_path / "gone.json") in line
    assert "next:" in done.stderr
    assert_unharmed_and_mended(published_store, digest, small_recipe)


def test_recipe_typo(published_store: Path, small_recipe: Path, tmp_path: Path) -> None:
    digest = current(published_store)
    broken = write_recipe(tmp_path)
    broken.write_text(broken.read_text().replace("calibration:", "calibratoin:"))
    done = quantpipe("run", broken, "--store", published_store)
    assert done.status == 2
    assert "quantize.calibratoin: unknown key, did you mean `calibration`?" in done.stderr
    assert_unharmed_and_mended(published_store, digest, small_recipe)


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_damaged_source_shard(published_store: Path, small_recipe: Path, tmp_path: Path, damage: str) -> None:
    digest = current(published_store)
    source = tmp_path / "source"
    shutil.copytree(ROOT / "quantpipe/assets/tiny-qwen3-moe", source)
    shard = sorted(source.glob("*.safetensors"))[0]
    if damage == "truncated":
        os.truncate(shard, shard.stat().st_size - 1000)
    else:
        shard.unlink()
    broken = write_recipe(tmp_path, source={"repo": str(source)})
    done = quantpipe("run", broken, "--store", published_store)
    assert done.status == 3
    assert shard.name in done.stderr
    assert "next:" in done.stderr
    assert "quantize  " not in done.stderr
    assert_unharmed_and_mended(published_store, digest, small_recipe)


def test_description_with_a_key_removed(quantized_store: Path, small_recipe: Path) -> None:
    description = next((quantized_store / "runs").rglob("staging/**/quant_model_description.json"))
    value = json.loads(description.read_text())
    key = "model.layers.1.mlp.experts.3.down_proj.weight"
    del value[key]
    description.write_text(json.dumps(value))
    done = quantpipe("run", small_recipe, "--store", quantized_store, "--until", "verify")
    assert done.status == 3
    assert key in done.stderr
    assert "--force quantize" in done.stderr
    assert not list((quantized_store / "models").glob("*/*"))
    fixed = quantpipe(
        "run", small_recipe, "--store", quantized_store, "--until", "verify", "--force", "quantize"
    )
    assert fixed.status == 0, fixed.stderr
    assert len(list((quantized_store / "models" / NAME).glob("[0-9a-f]*/quantpipe.json"))) == 1


def test_serving_environment_missing_is_heard_of_at_once(quantized_store: Path, small_recipe: Path) -> None:
    shutil.rmtree(quantized_store / "runs")
    done = quantpipe("run", small_recipe, "--store", quantized_store, "--serve-python", "/no/such/python")
    assert done.status == 5
    assert "/no/such/python" in done.stderr
    assert "make setup" in done.stderr
    assert "quantize  " not in done.stderr
    assert not list((quantized_store / "models").glob("*/*"))


def test_port_in_use(published_store: Path, small_recipe: Path) -> None:
    digest = current(published_store)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = quantpipe("run", small_recipe, "--store", published_store, "--force", "smoke", "--port", port)
    assert done.status == 5
    assert f"port {port}" in done.stderr
    assert "next:" in done.stderr
    assert_unharmed_and_mended(published_store, digest, small_recipe)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 100 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, *, leave: int) -> Path:
    """Take all space but `leave` bytes."""
    filler = folder / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(folder).free - leave)
    return filler


def test_full_disk_is_refused_beforehand(small_disk: Path, small_recipe: Path) -> None:
    filler = fill(small_disk, leave=1 << 20)
    done = quantpipe("run", small_recipe, "--store", small_disk / "store", "--until", "fetch")
    assert done.status == 5
    assert "free" in done.stderr
    assert str(small_disk / "store") in done.stderr
    filler.unlink()
    assert quantpipe("run", small_recipe, "--store", small_disk / "store", "--until", "fetch").status == 0


def test_disk_that_fills_up_in_the_middle(small_disk: Path, small_recipe: Path) -> None:
    store = small_disk / "store"
    process = start("run", small_recipe, "--store", store, "--until", "verify")
    wait_for_event(process, store, '"name": "quantize"')
    filler = fill(small_disk, leave=100 << 10)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 5, errors
    assert "pace" in errors  # "No space left on device", or "free space ..."
    assert "next:" in errors
    filler.unlink()
    done = quantpipe("run", small_recipe, "--store", store, "--until", "verify")
    assert done.status == 0, done.stderr
    assert "fetch     up to date" in done.stderr


# -- killed at any instant ------------------------------------------------------------------------


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """The command in a process group of its own, still running."""
    return subprocess.Popen(
        [str(QUANTPIPE), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )


def events(store: Path) -> str:
    return "".join(path.read_text() for path in sorted((store / "runs").glob("*/*/events.jsonl")))


def wait_for_event(process: subprocess.Popen[str], store: Path, text: str, seconds: float = 300) -> None:
    """Until a run's events hold `text` more often than before."""
    deadline = time.monotonic() + seconds
    while text not in events(store):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"{text} did not come"
        time.sleep(0.005)


def kill_during(stage: str, store: Path, recipe: Path, text: str) -> None:
    """SIGKILL to quantpipe's whole process group when `text` is in a new run's events."""
    for path in (store / "runs").glob("*/*/events.jsonl"):
        path.unlink()
    process = start("run", recipe, "--store", store)
    wait_for_event(process, store, text)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    run_id = sorted((store / "runs" / NAME).iterdir())[-1].name
    deadline = time.monotonic() + 30
    while left := processes_of(f"QUANTPIPE_RUN_ID={run_id}"):
        assert time.monotonic() < deadline, f"killed during {stage}, still there: {left}"
        time.sleep(0.05)


def test_killed_during_each_stage_the_same_digest_is_published(
    _published: Path, small_recipe: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    for stage, text in (
        ("fetch", '"stage": "fetch", "status": "started"'),
        ("quantize", '"name": "quantize"'),
        ("verify", '"stage": "verify", "status": "started"'),
        ("smoke", '"event": "server"'),
        ("publish", '"stage": "publish", "status": "started"'),
    ):
        kill_during(stage, store, small_recipe, text)
    done = quantpipe("run", small_recipe, "--store", store, "--json")
    assert done.status == 0, done.stderr
    assert done.json()["digest"] == current(store) == current(_published)
    assert (
        tree(store / "models" / NAME / current(store)).keys()
        == tree(_published / "models" / NAME / current(_published)).keys()
    )
    assert len(list((store / "models" / NAME).glob("?" * 64))) == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_ctrl_c_and_sigterm_stop_in_order(
    quantized_store: Path, small_recipe: Path, number: signal.Signals, status: int
) -> None:
    for path in (quantized_store / "runs").glob("*/*/events.jsonl"):
        path.unlink()
    process = start("run", small_recipe, "--store", quantized_store)
    wait_for_event(process, quantized_store, '"event": "server"')
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert "next:" in errors
    assert not (quantized_store / "models" / NAME / "current").exists()
    run = sorted((quantized_store / "runs" / NAME).iterdir())[-1]
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
    assert processes_of(f"QUANTPIPE_RUN_ID={run.name}") == []


# -- several runs ---------------------------------------------------------------------------------


def test_second_run_at_the_same_time_is_told_who_holds_the_lease(tmp_path: Path, small_recipe: Path) -> None:
    store = tmp_path / "store"
    process = start("run", small_recipe, "--store", store)
    try:
        wait_for_event(process, store, '"stage": "quantize", "status": "started"')
        done = quantpipe("run", small_recipe, "--store", store)
        assert done.status == 11
        assert f"process {process.pid} on {socket.gethostname()}" in done.stderr
        status = quantpipe("status", "--store", store, "--json").json()
        assert status[0]["run"]["status"] == "running"
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_deep_finds_what_size_and_time_hide(published_store: Path, small_recipe: Path) -> None:
    assert quantpipe("run", small_recipe, "--store", published_store, "-q").status == 0
    shard = next((published_store / "sources").rglob("model-00002-of-*.safetensors"))
    good, before = shard.read_bytes(), shard.stat()
    with shard.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(bytes([good[-1] ^ 1]))
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (
        quantpipe("run", small_recipe, "--store", published_store, "--json").json()["status"] == "up to date"
    )
    assert shard.read_bytes() != good
    done = quantpipe("run", small_recipe, "--store", published_store, "--deep", "--json")
    assert done.status == 0, done.stderr
    assert shard.read_bytes() == good
    fetched = done.json()["stages"][0]["figures"]["per_file"]
    assert [file["path"] for file in fetched if file["how"] == "fetched"] == [shard.name]


def test_changed_smoke_section_reruns_smoke_only(published_store: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    value = recipe.read_text().replace("min_matches: 1.0", "min_matches: 0.5")
    recipe.write_text(value)
    done = quantpipe("run", recipe, "--store", published_store, "--json")
    assert done.status == 0, done.stderr
    stages = [json.loads(line) for line in done.stderr.splitlines() if '"status": "started"' in line]
    assert [event["stage"] for event in stages if event["event"] == "stage"] == ["fetch", "smoke"]


def test_wrong_answers_are_not_published(quantized_store: Path, tmp_path: Path) -> None:
    probes = [{"prompt": "The first ten prime numbers are", "continuation": " and now for something else"}]
    recipe = write_recipe(tmp_path, smoke={"probes": probes})
    done = quantpipe("run", recipe, "--store", quantized_store)
    assert done.status == 4
    assert "something else" in done.stderr
    assert not (quantized_store / "models" / NAME / "current").exists()
    failed = quantpipe("status", "--store", quantized_store, "--json").json()[0]["run"]
    assert failed["status"] == "failed"
    assert failed["error"]["exit_code"] == 4


@pytest.mark.slow
def test_rollback_is_not_undone_by_the_next_scheduled_run(
    published_store: Path, small_recipe: Path, tmp_path: Path
) -> None:
    first = current(published_store)
    prompts = {"dataset": str(ROOT / "calib_data/anti_outlier.json"), "limit": 1}
    changed = write_recipe(tmp_path, quantize={"calibration": prompts})
    done = quantpipe("run", changed, "--store", published_store)
    assert done.status == 0, done.stderr
    second = current(published_store)
    assert second != first
    assert quantpipe("rollback", changed, "--store", published_store).status == 0
    assert current(published_store) == first
    assert quantpipe("run", small_recipe, "--store", published_store).status == 0
    done = quantpipe("run", changed, "--store", published_store, "--json")
    assert (done.status, done.json()["status"]) == (0, "held")
    assert current(published_store) == first
    done = quantpipe("run", changed, "--store", published_store, "--force", "publish", "--json")
    assert (done.status, done.json()["status"]) == (0, "published")
    assert current(published_store) == second


def test_from_needs_what_is_before_it(tmp_path: Path, small_recipe: Path) -> None:
    done = quantpipe("run", small_recipe, "--store", tmp_path / "store", "--from", "smoke")
    assert done.status == 2
    assert "fetch, quantize, verify" in done.stderr


# -- what a user does with it ---------------------------------------------------------------------


def test_published_directory_loads_with_plain_vllm_serve(published_store: Path, serve_python: Path) -> None:
    """Not through quantpipe: the command that a user types."""
    checkpoint = published_store / "models" / NAME / "current"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(serve_python.with_name("vllm")), "serve", str(checkpoint), "--quantization", "ascend"]
    command += ["--port", str(port), "--host", "127.0.0.1", "--max-model-len", "512", "--enforce-eager"]
    variables = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "TORCHDYNAMO_DISABLE": "1"}
    log = published_store / "serve.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1", **variables),
            start_new_session=True,
        )
    try:
        probes = json.loads((ROOT / "quantpipe/assets/tiny-qwen3-moe.probes.json").read_text("utf-8"))
        wait_until_healthy(server, port, log)
        for probe in probes:
            if not probe["chat"]:
                text = complete(port, str(checkpoint), probe)
                assert text.startswith(probe["continuation"]), probe["prompt"]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def wait_until_healthy(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 240
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.3)


def complete(port: int, model: str, probe: dict[str, Any]) -> str:
    body = {"model": model, "prompt": probe["prompt"], "max_tokens": probe["max_tokens"], "temperature": 0}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return str(json.load(answer)["choices"][0]["text"])


# -- bytes that rot between the stages ----------------------------------------------------------------


def snapshot_of(store: Path) -> Path:
    return next(store.glob("sources/*/*/*/config.json")).parent


@pytest.mark.parametrize(
    ("name", "position", "said"),
    [
        ("model-00002-of-00003.safetensors", -100, "tensor "),
        ("model-00002-of-00003.safetensors", 20, "its header"),
        ("tokenizer.json", 200, "tokenizer.json changed"),
        ("config.json", 30, "config.json changed"),
    ],
)
def test_a_bit_that_flips_in_the_snapshot_is_not_quantized(
    published_store: Path, tmp_path: Path, name: str, position: int, said: str
) -> None:
    recipe, file = write_recipe(tmp_path), snapshot_of(published_store) / name
    before = current(published_store)
    # A copied store has other inodes: fetch hashes its files once, and trusts their stamps from then on.
    assert quantpipe("run", recipe, "--store", published_store, "--until", "fetch").status == 0
    flip(file, position % file.stat().st_size)
    failed = quantpipe("run", recipe, "--store", published_store, "--force", "quantize")
    assert failed.status == 3, failed.stderr
    assert said in failed.stderr and name in failed.stderr and "--deep" in failed.stderr
    assert current(published_store) == before
    fixed = quantpipe("run", recipe, "--store", published_store, "--deep", "--until", "quantize")
    assert fixed.status == 0, fixed.stderr


def test_the_same_inputs_with_another_result_are_explained(published_store: Path, tmp_path: Path) -> None:
    """As if the published generation had been made by a machine that computed incorrectly."""
    recipe, digest = write_recipe(tmp_path), current(published_store)
    receipts = published_store / "models" / NAME / "receipts" / f"{digest}.json"
    value = json.loads(receipts.read_text())
    [shard, *_] = [f for f in value["quantize"]["outputs"]["manifest"]["files"] if "00001" in f["path"]]
    shard["sha256"] = "0" * 64
    receipts.write_text(json.dumps(value))
    failed = quantpipe("run", recipe, "--store", published_store, "--until", "quantize")
    assert failed.status == 3, failed.stderr
    assert "the same source and recipe gave another checkpoint" in failed.stderr
    assert f"{shard['path']} differs" in failed.stderr
    accepted = quantpipe(
        "run", recipe, "--store", published_store, "--force", "quantize", "--until", "verify"
    )
    assert accepted.status == 0, accepted.stderr
    assert "warning: the same source and recipe gave another checkpoint" in accepted.stderr


# -- bytes that rot after a publish -----------------------------------------------------------------------

READER = """
import hashlib, json, sys
from pathlib import Path

pointer, looks = Path(sys.argv[1]), 0
while not Path(sys.argv[2]).exists():
    place = pointer.resolve()
    for entry in json.loads((place / "quantpipe.json").read_text())["manifest"]["files"]:
        data = (place / entry["path"]).read_bytes()
        assert len(data) == entry["size"], entry["path"]
    looks += 1
print(looks)
"""


def test_a_bit_that_flips_in_the_published_generation_is_healed_under_a_reader(
    published_store: Path, small_recipe: Path, tmp_path: Path
) -> None:
    digest, pointer = current(published_store), published_store / "models" / NAME / "current"
    assert quantpipe("scrub", small_recipe, "--store", published_store).status == 0
    before = tree(pointer.resolve())
    # A copied store has other inodes: fetch hashes its files once, and trusts their stamps from then on.
    assert quantpipe("run", small_recipe, "--store", published_store, "--until", "fetch").status == 0
    flip(next(pointer.resolve().glob("*.safetensors")), -100)
    unnoticed = quantpipe("run", small_recipe, "--store", published_store, "--json")
    assert unnoticed.json()["status"] == "up to date"

    found = quantpipe("scrub", small_recipe, "--store", published_store, "--json")
    assert found.status == 3
    [finding] = found.json()["differences"]
    assert (finding["subject"], finding["recipe"]) == ("generation", NAME)
    assert finding["file"].endswith(".safetensors") and "sha256" in finding["problem"]
    status = quantpipe("status", small_recipe, "--store", published_store)
    assert f"damaged: {finding['file']} has sha256" in status.stdout

    end = tmp_path / "end"
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(pointer), str(end)], stdout=subprocess.PIPE, text=True
    )
    healed = quantpipe("run", small_recipe, "--store", published_store)
    end.touch()
    looks, _ = reader.communicate(timeout=60)
    assert reader.returncode == 0 and int(looks) > 0
    assert healed.status == 0, healed.stderr
    assert "was damaged after it was sealed" in healed.stderr
    assert current(published_store) == digest
    assert {**tree(pointer.resolve()), "quantpipe.json": b""} == {**before, "quantpipe.json": b""}

    clean = quantpipe("scrub", small_recipe, "--store", published_store, "--json")
    assert clean.status == 0, clean.stdout
    assert clean.json()["complete"]
    assert "damaged" not in quantpipe("status", small_recipe, "--store", published_store).stdout
    again = quantpipe("run", small_recipe, "--store", published_store, "--json")
    assert again.json()["status"] == "up to date"


def test_a_forced_publish_of_what_has_rotted_is_refused_and_the_next_run_heals(
    published_store: Path, small_recipe: Path
) -> None:
    generation = (published_store / "models" / NAME / "current").resolve()
    flip(next(generation.glob("*.safetensors")), -100)
    refused = quantpipe("run", small_recipe, "--store", published_store, "--force", "publish")
    assert refused.status == 3
    assert "the generation to point at is damaged" in refused.stderr
    healed = quantpipe("run", small_recipe, "--store", published_store, "--force", "publish")
    assert healed.status == 0, healed.stderr
    assert quantpipe("scrub", small_recipe, "--store", published_store).status == 0


def test_a_file_of_the_snapshot_that_rots_is_fetched_again_alone(
    published_store: Path, small_recipe: Path
) -> None:
    snapshot = snapshot_of(published_store)
    assert quantpipe("run", small_recipe, "--store", published_store, "--until", "fetch").status == 0
    intact = {path.name: path.stat().st_ino for path in snapshot.glob("*.*")}
    flip(snapshot / "tokenizer.json", 200)
    found = quantpipe("scrub", "--store", published_store)
    assert found.status == 3
    assert "tokenizer.json has sha256" in found.stdout and "fetches it again" in found.stdout
    refreshed = quantpipe("run", small_recipe, "--store", published_store)
    assert refreshed.status == 0, refreshed.stderr
    assert "quantize  up to date" in refreshed.stderr
    changed = {name for name, inode in intact.items() if (snapshot / name).stat().st_ino != inode}
    assert changed == {"tokenizer.json"}
    assert quantpipe("scrub", "--store", published_store).status == 0
