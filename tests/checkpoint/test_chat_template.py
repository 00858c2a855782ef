from __future__ import annotations

import json
from pathlib import Path

import pytest

from quantpipe.checkpoint.chat_template import has_chat_template


def test_a_directory_without_any_has_none(tmp_path: Path) -> None:
    assert not has_chat_template(tmp_path)


def test_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").touch()
    assert has_chat_template(tmp_path)


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ('{"chat_template": "x"}', True),
        ('{"chat_template": [{"name": "default", "template": "x"}]}', True),
        ("{}", False),
        ('{"chat_template": null}', False),
        ('{"note": "\\"chat_template\\""}', False),
        ("{", False),
    ],
)
def test_the_key_of_the_tokenizers_settings(tmp_path: Path, text: str, there: bool) -> None:
    (tmp_path / "tokenizer_config.json").write_text(text)
    assert has_chat_template(tmp_path) == there


@pytest.mark.parametrize("name", ["chat_template.json", "other.jinja"])
def test_files_that_transformers_does_not_read_for_a_text_model(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(json.dumps({"chat_template": "x"}))
    assert not has_chat_template(tmp_path)
