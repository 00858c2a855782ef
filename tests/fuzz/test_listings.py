"""What a hub answers is a list of files, or an error; and what is chosen from it fits into the store."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from quantpipe.checkpoint.strict_json import MAX_JSON_BYTES
from quantpipe.fetch.hub import PassingFault, RemoteFile
from quantpipe.fetch.hubs import huggingface, modelscope
from quantpipe.fetch.hubs.answers import understood
from quantpipe.fetch.listing import MAX_NAME_BYTES, require_vouched
from quantpipe.fetch.sources import select

from .harness import ends, fuzz, json_texts

SHA256, SHA1 = "ab" * 32, "cd" * 20
HUGGING_FACE = {
    "id": "a/b",
    "sha": SHA1,
    "siblings": [
        {"rfilename": "config.json", "size": 9, "blobId": SHA1},
        {"rfilename": "model.safetensors", "size": 99, "blobId": SHA1, "lfs": {"sha256": SHA256, "size": 99}},
        {"rfilename": "a/b.json", "size": 0, "blobId": SHA1},
    ],
}
MODELSCOPE = {
    "Code": 200,
    "Data": {
        "Files": [
            {"Path": "config.json", "Name": "config.json", "Size": 9, "Sha256": SHA256, "Type": "blob"},
            {"Path": "model.safetensors", "Size": 99, "Sha256": SHA256, "Type": "blob"},
            {"Path": "more", "Name": "more", "Type": "tree"},
        ]
    },
    "Success": True,
}
COMMITS = {"Code": 200, "Data": {"Commit": [{"Id": SHA1, "ShortId": "cdcd"}], "TotalCount": 1}}


def chosen(files: tuple[RemoteFile, ...]) -> None:
    found = select(files)
    require_vouched(found, "a/b")
    assert len(json.dumps([file.path for file in found])) < MAX_JSON_BYTES
    for file in found:
        assert type(file.size) is int and file.size >= 0
        assert file.path.isprintable() and ".." not in file.path.split("/") and not file.path.startswith("/")
        assert all(len(part.encode()) <= MAX_NAME_BYTES for part in file.path.split("/"))
        assert len(file.sha256 or file.git_sha1 or "") in (40, 64)


def read(parse: Callable[[bytes], Any], answer: bytes) -> Any:
    return understood(lambda: parse(answer), "a/b", "the page")


@fuzz(json_texts(HUGGING_FACE))
def test_hugging_face(answer: bytes) -> None:
    ends(
        lambda: chosen(read(huggingface.parse_info, answer).files),
        also=(PassingFault,),
    )


@fuzz(json_texts(MODELSCOPE))
def test_modelscope(answer: bytes) -> None:
    ends(
        lambda: chosen(read(modelscope.parse_page, answer).files),
        also=(PassingFault,),
    )


@fuzz(json_texts(COMMITS))
def test_commits(answer: bytes) -> None:
    commit = ends(lambda: modelscope.parse_commit(answer))
    assert commit is None or len(commit) == 40


def test_the_seeds_are_right() -> None:
    chosen(huggingface.parse_info(json.dumps(HUGGING_FACE).encode()).files)
    chosen(modelscope.parse_page(json.dumps(MODELSCOPE).encode()).files)
    assert modelscope.parse_commit(json.dumps(COMMITS).encode()) == SHA1
