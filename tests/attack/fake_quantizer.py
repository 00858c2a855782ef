"""A quantize worker that copies a checkpoint which the real one made, unit by unit, and resumes as it does.

Next to the shim's page (ATTACK_CONTROL) lies `template`, a staging folder's `checkpoint`. The prompts are
written into the result, so that another dataset gives another digest. Standard library only: a quick start.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

job = json.loads(Path(sys.argv[1]).read_text())
pipe = int(sys.argv[2])
template = Path(os.environ["ATTACK_CONTROL"]).parent / "template"
output, state = Path(job["output"]), Path(job["state"])


def send(event: str, **fields: object) -> None:
    os.write(pipe, (json.dumps({"event": event, **fields}) + "\n").encode())


def flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}")
    with temporary.open("wb") as file:
        for start in range(0, len(data), 1 << 18):
            file.write(data[start : start + (1 << 18)])
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    flush(path.parent)


def quantize() -> None:
    state.mkdir(parents=True, exist_ok=True)
    prompts = hashlib.sha256(Path(job["spec"]["dataset"]).read_bytes()).hexdigest()
    shards = {}
    names = sorted(path.name for path in template.glob("*.safetensors"))
    for number, name in enumerate(names, 1):
        data, unit = (template / name).read_bytes(), state / f"unit-{number}.json"
        digest = hashlib.sha256(data).hexdigest()
        kept = unit.exists() and (output / name).exists()
        if not kept or hashlib.sha256((output / name).read_bytes()).hexdigest() != digest:
            put(output / name, data)
            put(unit, json.dumps([name]).encode())
        shards[name] = {"size": len(data), "sha256": digest}
        send("layer", index=number, of=len(names))
    for path in template.rglob("*"):
        name = str(path.relative_to(template))
        if path.is_file() and name not in shards:
            data = path.read_bytes()
            if name == "config.json":
                data = json.dumps({**json.loads(data), "prompts": prompts}).encode()
            put(output / name, data)
    put(state / "shards.json", json.dumps(shards).encode())


send("started", versions={"fake": "1"}, threads=1)
try:
    quantize()
except OSError as error:
    import errno

    name = errno.errorcode[error.errno or 0]
    file = str(error.filename or "")
    send("failed", type="OSError", message=str(error), action="", fault="storage", errno=name, file=file)
    sys.exit(1)
send("finished", seconds=0.1)
