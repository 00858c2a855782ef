from __future__ import annotations

import io
import logging

import pytest

from quantpipe import redact as module
from quantpipe.redact import add_secret, guard_logger, is_secret, masked_arguments, redact

SECRET = "s3cr3tValue"


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {SECRET}",
        f"authorization: Basic {SECRET}==",
        f'{{"Authorization": "Bearer {SECRET}"}}',
        f"{{'authorization': '{SECRET}'}}",
        f"proxy-authorization: Basic {SECRET}",
        f"cookie m_session_id={SECRET}; path=/",
        f"http://user:{SECRET}@proxy:3128",
        f"http://user:pa/{SECRET}@proxy:3128".replace("/" + SECRET, SECRET),
        f"https://cdn.example/x?X-Amz-Signature={SECRET}&Expires=3",
        f"Max retries exceeded with url: /x?Policy=a&Signature={SECRET}",
        f"/x?OSSAccessKeyId=abc&Signature={SECRET}",
        f"/x?sig={SECRET}&se=2026",
        f"/repo?x-xet-access-token={SECRET}",
    ],
)
def test_shapes_of_secrets(text: str) -> None:
    assert SECRET not in redact(text)


@pytest.mark.parametrize("token", ["hf_abcDEF123456", "ms-01234567-89ab-cdef-0123-456789abcdef"])
def test_shapes_of_tokens(token: str) -> None:
    assert redact(f"token {token}.") == "token ***."


@pytest.mark.parametrize("name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MODELSCOPE_API_TOKEN"])
def test_tokens_of_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "plain word/+")
    assert redact("x plain word/+ y plain%20word%2F%2B z") == "x *** y *** z"


def test_password_of_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hunter22@proxy:3128")
    assert redact("the proxy refused hunter22") == "the proxy refused ***"


@pytest.mark.parametrize(
    "name",
    [
        "VLLM_API_KEY",
        "HF_TOKEN",
        "pgpassword",
        "--api-key",
        "--hf_token",
        "AWS_ACCESS_KEY_ID",
        "DB_PASS",
        "X_AUTH",
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "PWD",
        "MAX_TOKENS",
        "--max-num-batched-tokens",
        "TOKENIZERS_PARALLELISM",
        "--tokenizer-mode",
        "VLLM_SHARED_EXPERTS_STREAM_TOKEN_THRESHOLD",
        "SSH_AUTH_SOCK",
        "--enable-auto-tool-choice",
        "VLLM_ENABLE_PREGRAD_PASSES",
        "QUANTPIPE_PASS_ENVIRONMENT",
        "--kv-cache-dtype",
    ],
)
def test_names_of_no_secrets(name: str) -> None:
    assert not is_secret(name)


def test_a_command_line_without_its_secrets() -> None:
    given = ["vllm", "--hf-token", "a", "b", "--x", "c", "--p=http://me:d@h", '{"token": "e", "n": 1}', "{no"]
    shown = ["vllm", "--hf-token", "***", "***", "--x", "c", "--p=http://***@h"]
    assert masked_arguments(given) == [*shown, '{"token": "***", "n": 1}', "{no"]
    assert masked_arguments(plain := ["x", '{"a":1}']) == plain  # unchanged, not written anew


def test_secret_that_a_client_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_known", set())
    add_secret("from-a-file")
    add_secret("")
    add_secret(None)
    assert redact("it is from-a-file") == "it is ***"
    assert redact("nothing here") == "nothing here"


@pytest.mark.parametrize(
    "text",
    [
        "fetching 118 files, 438.0 GiB, from https://huggingface.co/Qwen/Qwen3-235B-A22B, 8 at a time",
        "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 instead of 60303ae2",
        "max_tokens=16, tokenizer.json, special_tokens_map.json",
        "model-00001-of-00118.safetensors: HTTP 503",
        "the bearer of this token may not read it",
        '{"time": "2026-01-01T00:00:00Z", "event": "fetched", "bytes": 12}',
    ],
)
def test_plain_text_stays(text: str) -> None:
    assert redact(text) == text


def test_logs_of_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    logger, stream = logging.getLogger("some_client"), io.StringIO()
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    try:
        guard_logger("some_client")
        logging.getLogger("some_client.child").error("no %s", f"https://cdn/x?Signature={SECRET}")
        logging.getLogger("some_client.child").info("chatter")
    finally:
        logger.removeHandler(handler)
    assert stream.getvalue() == "no https://cdn/x?***\n"
