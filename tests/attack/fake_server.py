"""The least that a smoke load accepts, started in 40 ms: `fake_server.py PORT CHECKPOINT`.

It reads the checkpoint's description and answers with it: a server that was given another checkpoint, or an
incomplete one, does not start. Standard library only.
"""

# ruff: noqa: T201

import json
import socket
import sys
import threading
from pathlib import Path
from typing import Any

PORT, CHECKPOINT = int(sys.argv[1]), Path(sys.argv[2])


def completion(body: dict[str, Any]) -> dict[str, Any]:
    chat = "messages" in body
    text = " as it was " + (body["messages"][0]["content"] if chat else str(body["prompt"]))
    choice: dict[str, Any] = {"message": {"content": text}} if chat else {"text": text}
    choice["finish_reason"] = "stop"
    if "logprobs" in body:
        choice["logprobs"] = {"token_logprobs": [None if "echo" in body else -0.25, -0.25, -0.25]}
    return {"choices": [choice]}


def answer(path: str, body: bytes) -> bytes:
    if path == "/health":
        return b"{}"
    if path == "/v1/models":
        return json.dumps({"data": [{"id": "tiny", "root": str(CHECKPOINT)}]}).encode()
    asked = json.loads(body)
    if not asked.get("stream"):
        return json.dumps(completion(asked)).encode()
    choice = completion(asked)["choices"][0]
    piece = {"delta": choice["message"]} if "message" in choice else {"text": choice["text"]}
    return b"data: " + json.dumps({"choices": [piece]}).encode() + b"\n\ndata: [DONE]\n\n"


def serve(connection: socket.socket) -> None:
    with connection, connection.makefile("rb") as stream:
        path, size = stream.readline().split()[1].decode(), 0
        while (line := stream.readline().strip()) != b"":
            if line.lower().startswith(b"content-length:"):
                size = int(line.split(b":")[1])
        data = answer(path, stream.read(size))
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode() + data)


index = json.loads((CHECKPOINT / "model.safetensors.index.json").read_text())
for shard in set(index["weight_map"].values()):
    with (CHECKPOINT / shard).open("rb") as file:
        file.read(8)
print("INFO 01-01 00:00:00 [quantize.py:1] Using the vLLM Ascend modelslim Quantization now!", flush=True)
with socket.create_server(("127.0.0.1", PORT), backlog=64) as listener:
    while True:
        accepted, _ = listener.accept()
        threading.Thread(target=serve, args=(accepted,), daemon=True).start()
