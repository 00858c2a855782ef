from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantpipe.checkpoint.names import DESCRIPTION, INDEX
from quantpipe.errors import QuantizeError
from quantpipe.quantize.finish import finish

OLD_INDEX = "quant_model_weights.safetensors.index.json"


def old_shard(number: int) -> str:
    return f"quant_model_weights-{number:05d}-of-00002.safetensors"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """What msmodelslim's V1 saver leaves, in small."""
    folder = tmp_path / "out"
    (folder / "optional").mkdir(parents=True, mode=0o700)
    (folder / "optional" / "quarot.safetensors").write_bytes(b"rotation")
    for number in (1, 2):
        (folder / old_shard(number)).write_bytes(b"shard %d" % number)
        (folder / old_shard(number)).chmod(0o400)
    write(folder / OLD_INDEX, {"metadata": {"total_size": 14}, "weight_map": weight_map(old_shard)})
    write(folder / DESCRIPTION, {"model_quant_type": "W8A8", "fa_quant_type": None, "a.weight": "W8A8"})
    write(folder / "config.json", {"model_type": "qwen3_moe", "quantization_config": {"x": 1}})
    (folder / "modeling_custom.py").write_text("raise SystemExit")
    return folder


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    folder = tmp_path / "snapshot"
    folder.mkdir()
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json", "LICENSE", "README.md"):
        (folder / name).write_text(f"source of {name}")
    write(folder / "config.json", {"model_type": "of the source"})
    return folder


def weight_map(name: Any) -> dict[str, str]:
    return {"b.weight": name(2), "a.weight": name(1), "a.bias": name(1)}


def new_shard(number: int) -> str:
    return f"model-{number:05d}-of-00002.safetensors"


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def run(output: Path, snapshot: Path, *, trust: bool = False) -> None:
    finish(output, snapshot, scheme="w8a8_dynamic", trust_remote_code=trust)


def test_shards_and_index_get_the_names_that_vllm_reads(output: Path, snapshot: Path) -> None:
    run(output, snapshot)
    assert sorted(path.name for path in output.glob("*.safetensors*")) == [
        new_shard(1),
        new_shard(2),
        INDEX,
    ]
    assert (output / new_shard(2)).read_bytes() == b"shard 2"
    index = read(output / INDEX)
    assert index == {"metadata": {"total_size": 14}, "weight_map": weight_map(new_shard)}
    assert (output / "optional" / "quarot.safetensors").read_bytes() == b"rotation"


def test_the_description_has_no_null_and_keeps_the_rest(output: Path, snapshot: Path) -> None:
    run(output, snapshot)
    assert read(output / DESCRIPTION) == {"model_quant_type": "W8A8", "a.weight": "W8A8"}


def test_the_config_names_the_scheme_and_hides_no_description(output: Path, snapshot: Path) -> None:
    run(output, snapshot)
    assert read(output / "config.json") == {"model_type": "qwen3_moe", "quantize": "w8a8_dynamic"}


def test_tokenizer_and_licence_come_from_the_snapshot_where_missing(output: Path, snapshot: Path) -> None:
    (output / "generation_config.json").write_text("of msmodelslim")
    run(output, snapshot)
    assert (output / "tokenizer.json").read_text() == "source of tokenizer.json"
    assert (output / "chat_template.jinja").is_file() and (output / "LICENSE").is_file()
    assert (output / "generation_config.json").read_text() == "of msmodelslim"
    assert not (output / "README.md").exists()  # it describes the BF16 model


@pytest.mark.parametrize("trust", [False, True])
def test_python_files_stay_only_where_they_may_run(output: Path, snapshot: Path, trust: bool) -> None:
    run(output, snapshot, trust=trust)
    assert (output / "modeling_custom.py").exists() is trust


def test_modes_let_other_users_read(output: Path, snapshot: Path) -> None:
    run(output, snapshot)
    for path in output.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_again_it_changes_nothing(output: Path, snapshot: Path) -> None:
    run(output, snapshot)
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    run(output, snapshot)
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def lose_shard(output: Path) -> None:
    (output / old_shard(2)).unlink()


def add_stray(output: Path) -> None:
    (output / "left-over.safetensors").touch()


def lose_index(output: Path) -> None:
    (output / OLD_INDEX).unlink()


def second_index(output: Path) -> None:
    write(output / "other.safetensors.index.json", {"weight_map": {}})


def truncate_index(output: Path) -> None:
    (output / OLD_INDEX).write_text('{"weight_map": {')


def empty_index(output: Path) -> None:
    write(output / OLD_INDEX, {})


def odd_index(output: Path) -> None:
    write(output / OLD_INDEX, {"weight_map": {"a.weight": 1}})


def list_index(output: Path) -> None:
    write(output / OLD_INDEX, [1])


def lose_description(output: Path) -> None:
    (output / DESCRIPTION).unlink()


def list_description(output: Path) -> None:
    write(output / DESCRIPTION, ["W8A8"])


def lose_config(output: Path) -> None:
    (output / "config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lose_shard, old_shard(2)),
        (add_stray, "left-over.safetensors"),
        (lose_index, "0 index files"),
        (second_index, "2 index files"),
        (truncate_index, OLD_INDEX),
        (empty_index, "weight_map"),
        (odd_index, "weight_map"),
        (list_index, "not a JSON object but list"),
        (lose_description, DESCRIPTION),
        (list_description, "not a JSON object but list"),
        (lose_config, "config.json"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_incomplete_output_is_named(output: Path, snapshot: Path, damage: Any, said: str) -> None:
    damage(output)
    with pytest.raises(QuantizeError, match="incomplete") as caught:
        run(output, snapshot)
    assert said in str(caught.value)
    assert "log" in (caught.value.hint or "")
