"""A fake quantize worker: does what the job's spec says under "do", and reports as the worker does."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

job = json.loads(Path(sys.argv[1]).read_text())
pipe = int(sys.argv[2])
os.set_inheritable(pipe, False)


def send(event: str, **fields: object) -> None:
    os.write(pipe, (json.dumps({"event": event, **fields}) + "\n").encode())


def work() -> None:
    """A second of CPU time, silently."""
    until = time.process_time() + 2.5
    while time.process_time() < until:
        sum(range(10_000))


print("the worker's own log", flush=True)  # noqa: T201
for step in job["spec"]["do"]:
    name, *arguments = step
    if name == "send":
        send(**arguments[0])
    elif name == "kill":
        os.kill(os.getpid(), getattr(signal, arguments[0]))
    elif name == "exit":
        sys.exit(arguments[0])
    elif name == "sleep":
        time.sleep(arguments[0])
    elif name == "work":
        work()
    elif name == "halves":
        line = b'{"event": "phase", "name": "import"}\n'
        os.write(pipe, line[:11])
        time.sleep(0.3)
        os.write(pipe, line[11:])
    elif name == "environment":
        send("phase", name="env", environment=dict(os.environ), folder=str(Path.cwd()))
    elif name == "child" and os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
