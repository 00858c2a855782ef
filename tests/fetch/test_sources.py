from __future__ import annotations

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
