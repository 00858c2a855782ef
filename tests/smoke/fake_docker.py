#!/usr/bin/env python3
"""A container engine that records what it is asked and runs a server in the place of the image's.

`run` starts the program of $FAKE_DOCKER_SERVER (JSON; its item "PORT" becomes the port of the command) in a
session of its own, without the client's environment but with the container's, as a daemon would. `rm`
ends it; `ps` lists what is left; `exec` runs $FAKE_DOCKER_EXEC. Everything goes to $FAKE_DOCKER_RECORD.
"""

# ruff: noqa: T201

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

FOLDER = Path(os.environ["FAKE_DOCKER_FOLDER"])
ARGUMENTS = sys.argv[1:]
with (FOLDER / "record.jsonl").open("a") as record:
    record.write(json.dumps(ARGUMENTS) + "\n")
BOXES = FOLDER / "boxes"
BOXES.mkdir(exist_ok=True)


def value_of(option: str) -> str:
    return ARGUMENTS[ARGUMENTS.index(option) + 1]


def run() -> int:
    port = value_of("--port")
    variables = [ARGUMENTS[i + 1] for i, argument in enumerate(ARGUMENTS) if argument == "-e"]
    pairs = [v.partition("=") for v in variables]
    inside = {name: value if equals else os.environ[name] for name, equals, value in pairs}
    server = [port if part == "PORT" else part for part in json.loads(os.environ["FAKE_DOCKER_SERVER"])]
    process = subprocess.Popen(
        server, env={"PATH": os.environ["PATH"], **inside}, start_new_session=True, cwd=FOLDER
    )
    box = BOXES / value_of("--name")
    box.write_text(str(process.pid))
    signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGTERM))
    status = process.wait()
    box.unlink(missing_ok=True)
    return status


def remove() -> int:
    box = BOXES / ARGUMENTS[-1]
    with suppress(OSError, ValueError):
        os.kill(int(box.read_text()), signal.SIGKILL)
    box.unlink(missing_ok=True)
    return 0


def execute() -> int:
    return subprocess.run(json.loads(os.environ["FAKE_DOCKER_EXEC"]), check=False).returncode


if os.environ.get("FAKE_DOCKER_BROKEN"):
    print("Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", file=sys.stderr)
    sys.exit(1)
if ARGUMENTS[0] == "image" and os.environ.get("FAKE_DOCKER_NO_IMAGE"):
    print(f"Error: No such image: {ARGUMENTS[-1]}", file=sys.stderr)
    sys.exit(1)
if ARGUMENTS[0] == "ps":
    print("\n".join(path.name for path in BOXES.iterdir()))
    sys.exit(0)
sys.exit({"run": run, "rm": remove, "exec": execute}.get(ARGUMENTS[0], lambda: 0)())
