"""A small OpenAI-like server that misbehaves on demand: `python fake_server.py PORT MODE [FILE]`."""

# ruff: noqa: T201

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

GATE = threading.Semaphore(1)
PORT, MODE = int(sys.argv[1]), sys.argv[2]
MODELS = {
    "other-model": {"id": "other", "root": "/checkpoint"},
    "other-root": {"id": "tiny", "root": "/another/checkpoint"},
    "no-root": {"id": "tiny"},
    "rooted": {"id": "tiny", "root": sys.argv[3] if len(sys.argv) > 3 else None},
}
TEXTS = {
    "wrong": " entirely wrong",
    "empty": "  ",
    "null": None,
    "mark": "!" * 32,
    "again": " the" * 20,
    "script": " все люди рождаются свободными",
}
INFO = {
    "told": {"model_config": {"quantization": "ascend"}},
    "told-none": {"model_config": {"quantization": None}},
    "told-as-text": "model='/x', tensor_parallel_size=1, quantization=ascend, enforce_eager=True",
    "told-none-as-text": "model='/x', quantization=None, quantization_config=None",
    "told-nothing": {},
}
KEYS = {"locked": "geheim", "keyed": os.environ.get("VLLM_API_KEY")}
ASKED = [0]
EFFECTIVE = "INFO 01-01 00:00:00 [quantize.py:1] Using the vLLM Ascend modelslim Quantization now!"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        print("request:", format % args, flush=True)

    def answer(self, value: object, status: int = 200) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.path == "/health":
            self.answer({}, 503 if MODE == "unhealthy" else 200)
        elif MODE in KEYS and self.headers["Authorization"] != f"Bearer {KEYS[MODE]}":
            self.answer({"error": "Unauthorized"}, 401)
        elif MODE == "moved":
            self.send_response(302)
            self.send_header("Location", sys.argv[3] + self.path)
            self.end_headers()
        elif self.path.startswith("/server_info"):
            self.answer({"vllm_config": INFO.get(MODE)}, 200 if MODE in INFO else 404)
        elif MODE == "odd-models":
            self.answer({"data": "none"})
        else:
            model = MODELS.get(MODE, {"id": "tiny", "root": "/checkpoint"})
            self.answer({"object": "list", "data": [model]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if MODE == "endless":
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(b" " * (1 << 20))
        elif MODE == "deep":
            self.answer(b"[" * 100_000)
        elif MODE == "error":
            self.answer({"error": {"message": "the engine fell over"}}, 500)
        elif MODE == "dies":
            print("ERROR 01-01 00:00:00 [core.py:1] RuntimeError: the kernel is broken", flush=True)
            os._exit(9)
        elif MODE == "no-choices":
            self.answer({"choices": []})
        elif MODE == "not-json":
            self.answer(b"<html>")
        elif MODE == "list":
            self.answer([1])
        elif MODE == "not-http":
            self.wfile.write(b"\x00\x01 what?\r\n\r\n")
        elif MODE == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choi')
        elif MODE == "drips":
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(b" ")
                time.sleep(0.1)
        elif MODE == "slow":
            time.sleep(30)
        else:
            self.complete(body)

    def complete(self, body: dict[str, Any]) -> None:
        assert body["temperature"] == 0 and body["model"] == "tiny", body
        ASKED[0] += 1
        prompt = body["messages"][0]["content"] if "messages" in body else body["prompt"]
        text = TEXTS.get(MODE, f" after {prompt} in {body['max_tokens']}")
        if MODE == "fickle":
            text = f" answer {ASKED[0]}"
        if MODE == "crowded" and not GATE.acquire(blocking=False):
            return self.answer({"error": {"message": "too many"}}, 429)
        try:
            if MODE == "crowded":
                time.sleep(0.3)
            if body.get("stream"):
                return self.stream(text or "", "messages" in body)
            choice: dict[str, Any] = {"message": {"content": text}} if "messages" in body else {"text": text}
            choice["finish_reason"] = "length" if MODE == "long" else "stop"
            if "logprobs" in body:
                value = {"nan": None, "floor": -9999.0, "positive": 0.5}.get(MODE, -0.25)
                choice["logprobs"] = {"token_logprobs": [None if "echo" in body else value, value, value]}
            if MODE == "no-logprobs":
                choice.pop("logprobs", None)
            self.answer({"choices": [choice]})
        finally:
            if MODE == "crowded":
                GATE.release()

    def stream(self, text: str, chat: bool) -> None:
        self.send_response(200)
        self.end_headers()
        for piece in ("", text[:3], text[3:-2] if MODE == "lossy" else text[3:]):
            choice = {"delta": {"content": piece}} if chat else {"text": piece}
            self.wfile.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
        if MODE != "unended":
            self.wfile.write(b"data: [DONE]\n\n")


def stubborn_grandchild() -> None:
    """A worker process in its own session that ignores SIGTERM, as engines leave them."""
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)


print("hello from the fake", flush=True)
if MODE != "fallback":
    print(EFFECTIVE, flush=True)
if MODE == "log":  # say what a real log said, and end as it ended
    print(Path(sys.argv[3]).read_text(), flush=True)
    sys.exit(1)
if MODE == "exits":
    print("ValueError: the first error\nRuntimeError: its consequence", flush=True)
    sys.exit(3)
if MODE == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if MODE == "no-memory":
    print("torch.OutOfMemoryError: NPU out of memory. Tried to allocate 2.00 GiB", flush=True)
    sys.exit(1)
if MODE == "hangs":
    time.sleep(600)
if MODE == "busy":
    while True:
        print("computing", flush=True)
        time.sleep(0.05)
if MODE == "raw":
    import socket

    with socket.create_server(("127.0.0.1", PORT)) as listener:
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-nothing for you\r\n")
if MODE == "grandchild":
    stubborn_grandchild()
if MODE == "loads":
    for number in range(1, 4):
        share = 100 * number // 3
        print(f"Loading safetensors checkpoint shards:  {share}% Completed | {number}/3", flush=True)
        time.sleep(0.4)
if MODE == "slow-load":  # longer than any one timeout, but it always comes further
    for number in range(1, 13):
        print(f"Loading safetensors checkpoint shards:  {8 * number}% Completed | {number}/12", flush=True)
        time.sleep(0.5)
if MODE == "crawls":  # alive, and no further: only numbers change
    for number in range(10_000):
        print(f"INFO waited {number} s for a device", flush=True)
        time.sleep(0.1)
if MODE == "where":
    Path(sys.argv[3]).write_text(json.dumps([str(Path.cwd()), dict(os.environ)]))
server = ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
time.sleep(600)
