from __future__ import annotations

import itertools

import pytest

from quantpipe.errors import RecipeError, VerificationError
from quantpipe.fetch.hub import RemoteFile
from quantpipe.fetch.sources import select


def chosen(*paths: str, **options: object) -> list[str]:
    return [file.path for file in select([RemoteFile(p, 1) for p in paths], **options)]  # type: ignore[arg-type]


def test_what_is_needed() -> None:
    needed = [
        "LICENSE",
        "README.md",
        "additional_chat_templates/tool.jinja",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.model",
    ]
    others = [
        ".gitattributes",
        ".cache/x.json",
        "consolidated.safetensors",
        "figures/plot.png",
        "model.gguf",
        "modeling_x.py",
        "onnx/config.json",
        "original/consolidated.00.pth",
        "pytorch_model-00001-of-00002.bin",
        "training_args.pt",
    ]
    assert chosen(*needed, *others) == needed


def test_consolidated_alone_is_taken() -> None:
    assert chosen("consolidated.safetensors", "params.json") == ["consolidated.safetensors", "params.json"]


def test_remote_code_only_when_trusted() -> None:
    files = ("model.safetensors", "modeling_x.py")
    assert chosen(*files) == ["model.safetensors"]
    assert chosen(*files, include=["*"]) == ["model.safetensors"]
    assert chosen(*files, trust_remote_code=True) == list(files)


def test_patterns() -> None:
    files = ("a/model.safetensors", "b/model.safetensors", "config.json", "vocab.bin")
    assert chosen(*files, include=["a/*"]) == ["a/model.safetensors"]
    assert chosen(*files, exclude=["b/*", "*.json"]) == ["a/model.safetensors"]
    assert "vocab.bin" not in chosen(*files, include=["*"])


@pytest.mark.parametrize(
    ("files", "options", "hint"),
    [
        (["pytorch_model.bin", "config.json"], {}, "other formats"),
        (["model.safetensors"], {"exclude": ["*.safetensors"]}, "patterns"),
        (["README.md"], {}, "not a model"),
    ],
)
def test_no_weights(files: list[str], options: dict[str, list[str]], hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        chosen(*files, **options)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("path", ["/etc/passwd", "../x.json", "a/../../x.json", "a//b.json", "./x.json"])
def test_paths_that_lead_elsewhere(path: str) -> None:
    with pytest.raises(VerificationError):
        chosen("model.safetensors", path)


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (["a.json", "a.json/b.json"], "beside 'a.json/b.json'"),
        (["a.txt", "a.txt.json/b.json"], "beside 'a.txt.json/b.json'"),
        ([f"{'x' * 300}.json"], "name of more than 200 bytes"),
        (["/".join(["folder"] * 900) + "/x.json"], "longer than 1,000 bytes"),
        (["model-\x1b]0;pwned\x07.json"], "printable"),
        (["caf\udce9.json"], "printable"),
        (["quantpipe.json"], "a checkpoint that quantpipe made"),
        (["quantpipe.json/x.json"], "a checkpoint that quantpipe made"),
        (["..json/../x.json"], "plain relative path"),
    ],
)
def test_what_the_store_cannot_hold_is_refused(paths: list[str], said: str) -> None:
    with pytest.raises((VerificationError, RecipeError), match=said) as caught:
        chosen("model.safetensors", *paths)
    assert caught.value.exit_code in (2, 3)
    assert caught.value.hint
    assert str(caught.value).isprintable()


def test_what_is_left_out_need_not_fit() -> None:
    assert chosen(
        "model.safetensors", "quantpipe.json", "a.json/b.json", "a.json", exclude=["quantpipe*", "a*"]
    )
    assert chosen("model.safetensors", f"{'x' * 300}.bin", "caf\udce9.onnx")


def test_a_listing_has_a_limit() -> None:
    endless = (RemoteFile(f"{number}.bin", 1) for number in itertools.count())
    with pytest.raises(VerificationError, match="more than 20,000 files"):
        select(endless)
