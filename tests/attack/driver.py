"""A host of the attack tests: everything is imported once, then each command runs in a fork of this process.

    python driver.py NAME

Lines of JSON on stdin, answers on stdout; `Host` in hosts.py is the other end:

    {"id": 1, "argv": [...], "control": PATH or null, "out": FILE, "folder": FOLDER, "environment": {},
     "real": false, "lapse": SECONDS or 0, "memory": BYTES or 0}
    {"signal": 9, "pids": [...]}     to these processes

The command itself is quantpipe's own, from `cli.main` on. Unless it is `real`, two things are replaced: the
quantize worker (by fake_quantizer.py) and the server that the smoke load starts (by fake_server.py). With a
NAME this process is another host than those beside it, also where there are no namespaces.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
HERE = Path(__file__).parent
SHIM = ctypes.CDLL(os.environ["LD_PRELOAD"])


def replace_parts() -> None:
    """The fakes; and what only waits for them looks more often."""
    import quantpipe.smoke.server
    from quantpipe.quantize import stage as quantize
    from quantpipe.quantize import worker_process
    from quantpipe.smoke import launchers
    from quantpipe.smoke.server_command import ServerCommand

    def there(*_: Any) -> None:
        """The interpreters: this one."""

    def command(
        launcher: str, python: Path, checkpoint: Path, serve: Any, port: int, *, program: Any = None
    ) -> Any:
        return ServerCommand(
            (str(python), "-IS", str(HERE / "fake_server.py"), str(port), str(checkpoint)), {}
        )

    worker_process.WORKER = HERE / "fake_quantizer.py"
    vars(quantize)["require_interpreter"] = vars(launchers)["require_interpreter"] = there
    vars(launchers)["smoke_command"] = command
    quantpipe.smoke.server._POLL_SECONDS = 0.02


def be(name: str) -> None:
    """Another host: process ids mean nothing to the others."""
    import hashlib
    import platform
    import socket

    from quantpipe.host import procfs

    realm = hashlib.sha256(name.encode()).hexdigest()[:16]
    procfs.realm = lambda: realm  # type: ignore[assignment]
    socket.gethostname = lambda: name
    platform.node = lambda: name


def run(asked: dict[str, Any]) -> None:
    """In the fork: become the command. Does not return."""
    out = os.open(asked["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.chdir(asked["folder"])
    for name in [name for name in os.environ if name.startswith("QUANTPIPE_")]:
        del os.environ[name]
    os.environ.update(QUANTPIPE_QUANTIZE_PYTHON=sys.executable, QUANTPIPE_SERVE_PYTHON=sys.executable)
    os.environ.update(asked["environment"])
    os.dup2(nothing, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.closerange(3, 64)
    if not asked["real"]:
        replace_parts()
    if asked["lapse"]:
        from quantpipe.store import lease

        defaults = lease.Lease.__init__.__kwdefaults__ or {}
        defaults["lapse"] = asked["lapse"]
    if asked["control"] and SHIM.attack_arm(asked["control"].encode()) != 0:
        os._exit(99)
    if asked["memory"]:
        size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (size + asked["memory"], resource.RLIM_INFINITY))
    sys.argv = ["quantpipe", *asked["argv"]]
    from quantpipe.cli import main

    try:
        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 98
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def started(asked: dict[str, Any]) -> int:
    child = os.fork()
    if child == 0:
        try:
            run(asked)
        finally:
            os._exit(97)
    return child


def main() -> None:
    import quantpipe.cli.render
    import quantpipe.operate.scrub
    import quantpipe.pipeline
    import quantpipe.publish.prune
    import quantpipe.verify.verify  # noqa: F401

    if sys.argv[1:]:
        be(sys.argv[1])
    running: dict[int, tuple[int, int]] = {}  # pidfd to id and process
    pending = b""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor:
                identity, child = running.pop(descriptor)
                poll.unregister(descriptor)
                os.close(descriptor)
                _, status = os.waitpid(child, 0)
                say({"id": identity, "status": os.waitstatus_to_exitcode(status)})
                continue
            data = os.read(0, 1 << 16)
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                asked = json.loads(line)
                if "signal" in asked:
                    for process in asked["pids"]:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(process, asked["signal"])
                    continue
                child = started(asked)
                descriptor = os.pidfd_open(child)
                running[descriptor] = (asked["id"], child)
                poll.register(descriptor, select.POLLIN)
                say({"id": asked["id"], "pid": child})


def say(value: dict[str, Any]) -> None:
    os.write(1, (json.dumps(value) + "\n").encode())


if __name__ == "__main__":
    main()
