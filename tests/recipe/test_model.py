from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantpipe.digest import digest_of
from quantpipe.errors import RecipeError
from quantpipe.recipe.load import load_recipe
from quantpipe.recipe.model import Recipe

BASE: dict[str, Any] = {
    "name": "r",
    "source": {"hub": "modelscope", "repo": "Qwen/Qwen3-32B", "revision": "v1"},
    "quantize": {
        "engine": "stock",
        "scheme": "w8a8_dynamic",
        "rotate": True,
        "anti_outlier": {"method": "flex_smooth_quant", "dataset": "smooth.json"},
        "calibration": {"dataset": "scales.json", "limit": 3},
        "device": "npu",
        "part_size": 4,
        "trust_remote_code": False,
    },
    "verify": {"target": "0.23.0"},
    "smoke": {"launcher": "native", "probes": [{"prompt": "a"}], "timeouts": {"ready": 60}},
    "publish": {"keep": 2},
}

WITHOUT_HUB: dict[str, Any] = {**BASE, "source": {"repo": "Qwen/Qwen3-32B"}}

DECIDES: list[tuple[str, Any]] = [
    ("source.hub", "huggingface"),
    ("source.repo", "Qwen/Qwen3-30B-A3B"),
    ("source.revision", "v2"),
    ("source.include", ["*.safetensors"]),
    ("source.exclude", ["*.bin"]),
    ("source.unverified", True),
    ("quantize.engine", "streaming"),
    ("quantize.rotate", False),
    ("quantize.anti_outlier", None),
    ("quantize.anti_outlier.method", "none"),
    ("quantize.calibration.limit", 2),
    ("quantize.device", "cpu"),
    ("quantize.device", "npu:0,1"),
    ("quantize.part_size", 5),
    ("quantize.trust_remote_code", True),
    ("quantize.threads", 3),
]
DECIDES_NOTHING: list[tuple[str, Any]] = [
    ("name", "other"),
    ("verify.target", "0.21.0"),
    ("verify.deep", False),
    ("smoke.launcher", "cpu"),
    ("smoke.probes", []),
    ("smoke.timeouts.ready", 90),
    ("publish.keep", 5),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "smooth.json").write_text('["s1", "s2"]')
    (folder / "scales.json").write_text('["c1", "c2", "c3", "c4"]')
    return folder


def load(folder: Path, value: dict[str, Any], name: str = "r.yaml") -> Recipe:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(value, sort_keys=False), "utf-8")
    return load_recipe(path)


def changed(key: str, new: Any, base: dict[str, Any] = BASE) -> dict[str, Any]:
    value = copy.deepcopy(base)
    *path, last = key.split(".")
    section = value
    for part in path:
        section = section[part]
    assert section.get(last) != new
    section[last] = new
    return value


@pytest.mark.parametrize(("key", "new"), DECIDES, ids=[f"{key}={new}" for key, new in DECIDES])
def test_what_decides_the_output_changes_the_digest(folder: Path, key: str, new: Any) -> None:
    assert load(folder, changed(key, new)).digest() != load(folder, BASE).digest()


@pytest.mark.parametrize(("key", "new"), DECIDES_NOTHING, ids=[key for key, _ in DECIDES_NOTHING])
def test_what_decides_nothing_leaves_the_digest(folder: Path, key: str, new: Any) -> None:
    assert load(folder, changed(key, new)).digest() == load(folder, BASE).digest()


def test_every_field_of_source_and_quantize_is_looked_at_here() -> None:
    """A field that is added has to be decided about."""
    fields = {f"source.{name}" for name in Recipe.model_fields["source"].annotation.model_fields}  # type: ignore[union-attr]
    fields |= {f"quantize.{name}" for name in Recipe.model_fields["quantize"].annotation.model_fields}  # type: ignore[union-attr]
    known = {".".join(key.split(".")[:2]) for key, _ in DECIDES}
    assert fields - known == {"quantize.exact", "quantize.scheme"}  # exact: beside engine streaming only


@given(
    order=st.randoms(use_true_random=False),
    comments=st.lists(st.text("abc: #'", max_size=20), min_size=6, max_size=6),
    place=st.sampled_from(["a", "b", "deep"]),
    form=st.sampled_from(["json", "jsonl text", "jsonl string"]),
)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_the_digest_ignores_order_comments_and_places(
    folder: Path, order: Any, comments: list[str], place: str, form: str
) -> None:
    def shuffled(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        items = [(key, shuffled(inner)) for key, inner in value.items()]
        order.shuffle(items)
        return dict(items)

    target = folder / place
    target.mkdir(exist_ok=True)
    prompts = ["c1", "c2", "c3", "c4"]
    name = f"named-otherwise.{form[:5].strip()}"
    if form == "json":
        (target / name).write_text(json.dumps(prompts, indent=3))
    elif form == "jsonl text":
        (target / name).write_text("".join(json.dumps({"id": 1, "text": p}) + "\n" for p in prompts))
    else:
        (target / name).write_text("\n\n".join(json.dumps(p) for p in prompts))
    value = changed("quantize.calibration.dataset", name)
    value["quantize"]["anti_outlier"]["dataset"] = "../smooth.json"
    lines = yaml.safe_dump(shuffled(value), sort_keys=False).splitlines()
    text = "".join(f"{line}\n# {comments[i % 6]}\n" for i, line in enumerate(lines))
    (target / "r.yaml").write_text(text)
    assert load_recipe(target / "r.yaml").digest() == load(folder, BASE).digest()


@given(
    st.lists(st.text("abcd \u4e2d", min_size=1, max_size=5).filter(str.strip), min_size=3, max_size=6),
    st.data(),
)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_any_prompt_that_counts_changes_the_digest(
    folder: Path, prompts: list[str], data: st.DataObject
) -> None:
    numbered = [f"{number} {prompt}" for number, prompt in enumerate(prompts)]
    at = data.draw(st.integers(0, len(prompts) - 1))
    dataset = data.draw(st.sampled_from(["calibration", "anti_outlier"]))
    value = changed(f"quantize.{dataset}.dataset", "drawn.json")

    def digest(items: list[str]) -> str:
        (folder / "drawn.json").write_text(json.dumps(items))
        return load(folder, value).digest()

    other = [*numbered[:at], numbered[at] + "!", *numbered[at + 1 :]]
    counts = dataset == "anti_outlier" or at < 3  # calibration is limited to three prompts
    assert (digest(other) != digest(numbered)) == counts


def test_the_place_of_a_local_source_is_not_in_the_digest(folder: Path) -> None:
    """Its content is: through its manifest, in the key of the quantize stage."""
    digests = set()
    for name in ("one", "two"):
        (folder / name).mkdir()
        digests.add(load(folder, changed("source", {"hub": "local", "repo": name})).digest())
    assert len(digests) == 1


def test_stage_inputs_say_what_concerns_which_stage(folder: Path) -> None:
    base = load(folder, BASE).stage_inputs()

    def touched(key: str, new: Any) -> set[str]:
        inputs = load(folder, changed(key, new)).stage_inputs()
        return {stage for stage in base if inputs[stage] != base[stage]}

    assert touched("source.revision", "v2") == {"fetch"}
    assert touched("quantize.rotate", False) == {"quantize"}
    assert touched("verify.target", "0.21.0") == {"verify"}
    assert touched("smoke.probes", []) == {"smoke"}
    assert touched("smoke.timeouts.ready", 90) == set()
    assert touched("publish.keep", 3) == set()


def test_inputs_are_json(folder: Path) -> None:
    inputs = load(folder, BASE).stage_inputs()
    assert json.loads(json.dumps(inputs)) == inputs
    assert list(inputs) == ["fetch", "quantize", "verify", "smoke", "publish"]


def test_the_limit_counts_by_what_it_leaves(folder: Path) -> None:
    """A limit beyond the dataset's end is the same as none."""
    many = load(folder, changed("quantize.calibration.limit", 99))
    none = load(folder, changed("quantize.calibration.limit", None))
    assert many.digest() == none.digest()
    assert many.calibration_prompts() == ("c1", "c2", "c3", "c4")
    assert load(folder, BASE).calibration_prompts() == ("c1", "c2", "c3")


@pytest.mark.parametrize("name", ["a", "qwen3-235b_w8a8.rot", "0", "x" * 100])
def test_names_that_are_folders_everywhere(folder: Path, name: str) -> None:
    assert load(folder, changed("name", name)).name == name


@pytest.mark.parametrize("name", ["", ".", "..", "-x", "a/b", "A", "a b", "x" * 101, "a\n", "ä"])
def test_names_that_are_not(folder: Path, name: str) -> None:
    with pytest.raises(RecipeError):
        load(folder, changed("name", name))


def test_exactness_decides_the_output_of_engine_streaming(folder: Path) -> None:
    base = changed("quantize.engine", "streaming")
    assert load(folder, changed("quantize.exact", False, base)).digest() != load(folder, base).digest()


@pytest.mark.parametrize(
    ("engine", "key", "new", "said"),
    [("stock", "exact", False, "always exact"), ("streaming", "device", "npu:0,1", "one device")],
)
def test_an_engine_is_not_asked_for_what_it_cannot(
    folder: Path, engine: str, key: str, new: Any, said: str
) -> None:
    base = copy.deepcopy(BASE)
    base["quantize"]["engine"] = engine
    with pytest.raises(RecipeError) as caught:
        load(folder, changed(f"quantize.{key}", new, base))
    assert said in "\n".join([str(caught.value), *caught.value.details])


@pytest.mark.parametrize(("wish", "hub"), [("True", "modelscope"), ("0", "huggingface"), ("", "huggingface")])
def test_a_source_without_a_hub_takes_the_one_that_vllm_s_users_choose(
    folder: Path, monkeypatch: pytest.MonkeyPatch, wish: str, hub: str
) -> None:
    monkeypatch.setenv("VLLM_USE_MODELSCOPE", wish)
    assert load(folder, WITHOUT_HUB).source.hub == hub


def test_the_hub_is_chosen_once_at_load(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_USE_MODELSCOPE", "1")
    recipe = load(folder, WITHOUT_HUB)
    monkeypatch.setenv("VLLM_USE_MODELSCOPE", "0")
    assert Recipe.model_validate(recipe.model_dump()).source.hub == "modelscope"
    assert recipe.stage_inputs()["fetch"]["hub"] == "modelscope"


def test_a_recipe_without_a_hub_has_one_digest_on_all_hosts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was fetched differs between hubs, and so does the key of the fetch stage."""
    digests, keys = set(), set()
    for wish in ("0", "1"):
        monkeypatch.setenv("VLLM_USE_MODELSCOPE", wish)
        recipe = load(folder, WITHOUT_HUB)
        digests.add(recipe.digest())
        keys.add(digest_of(recipe.stage_inputs()["fetch"]))
    assert (len(digests), len(keys)) == (1, 2)
    assert (
        load(folder, changed("source", {**WITHOUT_HUB["source"], "hub": "huggingface"})).digest()
        not in digests
    )
