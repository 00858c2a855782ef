"""Launchers `docker` and `podman`: vllm-ascend's image with the devices and mounts of the hardware.

Source of images, devices, mounts, shared memory and network: section 4.1 of vllm-ascend's tutorial on
Qwen3-235B-A22B. The checkpoint is mounted read-only, at the same path as outside.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from quantpipe.console import Console
from quantpipe.errors import PreflightError, RecipeError
from quantpipe.host import machine, orphans
from quantpipe.host.environment import for_child
from quantpipe.recipe.guard import refused_source
from quantpipe.recipe.smoke import Smoke
from quantpipe.redact import is_secret
from quantpipe.settings import Settings
from quantpipe.smoke.rules import DEVICES
from quantpipe.smoke.server import Server, choose_port, running
from quantpipe.smoke.server_command import ServerCommand, smoke_command, with_key

IMAGES = {
    "a2": "quay.io/ascend/vllm-ascend:v0.21.0rc1",
    "a3": "quay.io/ascend/vllm-ascend:v0.21.0rc1-a3",
}
LABEL = "quantpipe.run"

_MANAGERS = ("davinci_manager", "devmm_svm", "hisi_hdc")
_DRIVER = (
    "/usr/local/dcmi",
    "/usr/local/Ascend/driver/tools/hccn_tool",
    "/usr/local/bin/npu-smi",
    "/usr/local/Ascend/driver/lib64/",
    "/usr/local/Ascend/driver/version.info",
    "/etc/ascend_install.info",
)
_ENGINE_TIMEOUT_SECONDS = 60
_PREFIX = "quantpipe-"
_RESULT = "/tmp/quantpipe-bench.json"

_SET_UP = (
    # As an interactive shell of the image would: CANN's variables, where the image does not set them itself.
    "for f in /usr/local/Ascend/ascend-toolkit/set_env.sh /usr/local/Ascend/nnal/atb/set_env.sh; do "
    '[ -f "$f" ] && . "$f"; done; '
)


@dataclass(frozen=True)
class Containers:
    """vLLM-Ascend in its image.

    Attributes:
        visible: the folder that is mounted into the container, read-only.
    """

    smoke: Smoke
    settings: Settings
    visible: Path

    ours = True

    @property
    def engine(self) -> str:
        """The program: docker or podman."""
        return self.smoke.launcher

    def preflight(self) -> None:
        """The engine, its daemon, the devices and the driver, and the port."""
        if shutil.which(self.engine) is None:
            raise PreflightError(
                f"there is no `{self.engine}` on PATH",
                where="smoke.launcher",
                hint="install it, or use launcher native in an environment with vllm-ascend",
            )
        self._require_mounts()
        self._ask("version")
        self._require_image()
        machine.require_npu("smoke.launcher")
        devices = [machine.NPU_DEVICES / name for name in self._devices()]
        paths = [*devices, *map(Path, _DRIVER)]
        if missing := [str(path) for path in paths if not path.exists()]:
            raise PreflightError(
                f"the driver does not provide {', '.join(missing)}",
                where="smoke.hardware",
                hint="check smoke.hardware and smoke.container.devices; `npu-smi info` has to work",
            )
        choose_port(self.settings.port)

    def _require_image(self) -> None:
        """The image has to be present: pulling many gigabytes at the load, hours later, may fail."""
        try:
            self._ask("image", "inspect", "--format", "{{.Id}}", self.image)
        except PreflightError as error:
            raise PreflightError(
                f"the image {self.image} is not on this host",
                where="smoke.container.image",
                hint=f"`{self.engine} pull {self.image}`, on a host with network, or load it from a file",
                details=[error.what],
            ) from error

    def _require_mounts(self) -> None:
        """As the recipe's check, with what links on this host lead to, and with the place of the checkpoint.

        Raises:
            RecipeError: a mount shows too much of the host, or would hide what is to be tested.
        """
        for mount in self.smoke.container.mounts:
            source, target, *_ = mount.split(":")
            what = refused_source(source, os.path.realpath) if source.startswith("/") else None
            inside, visible = Path(os.path.normpath(target)), self.visible
            if inside.is_relative_to(visible) or visible.is_relative_to(inside):
                what = f"{target} would hide the checkpoint that is to be tested, in {visible}"
            if what is not None:
                hint = "change or remove the mount; docs/refused.md lists what is refused"
                raise RecipeError(what, where=f"smoke.container.mounts: {mount}", hint=hint)

    def command(self, checkpoint: Path, port: int, run_id: str) -> ServerCommand:
        """`docker run` in the foreground: its output is the log, its end the server's end.

        Raises:
            RecipeError: as `_require_mounts`.
        """
        self._require_mounts()
        inner = smoke_command("native", Path(), checkpoint, self.smoke.serve, port, program="vllm")
        container = self.smoke.container
        arguments = [self.engine, "run", "--rm", "--name", _name(run_id), "--label", f"{LABEL}={run_id}"]
        arguments += [f"--shm-size={container.shm_size}", "--net=host"]
        for device in self._devices():
            arguments += ["--device", f"/dev/{device}"]
        mounts = [*(f"{path}:{path}:ro" for path in _DRIVER), f"{self.visible}:{self.visible}:ro"]
        for mount in (*mounts, *container.mounts):
            arguments += ["-v", mount]
        secrets = {name: value for name, value in inner.environment.items() if is_secret(name)}
        for name, value in {**inner.environment, orphans.VARIABLE: run_id}.items():
            # A secret goes in the client's environment: command lines are visible to all, and in receipts.
            arguments += ["-e", name if name in secrets else f"{name}={value}"]
        arguments += [self.image, "bash", "-c", _SET_UP + 'exec "$@"', "vllm", *inner.arguments]
        passed = self.settings.pass_environment
        return ServerCommand(tuple(arguments), secrets, contained=True, passed=passed)

    @property
    def image(self) -> str:
        """The recipe's image, or the tutorial's for the hardware."""
        return self.smoke.container.image or IMAGES[self.smoke.hardware or "a3"]

    @contextlib.contextmanager
    def serving(self, checkpoint: Path, log: Path, run_id: str, console: Console) -> Iterator[Server]:
        """Start the container, wait for its server, remove it, even if its client was killed."""
        port = choose_port(self.settings.port)
        command = replace(self, smoke=with_key(self.smoke)).command(checkpoint, port, run_id)
        console.event("server", **command.describe())
        with running(
            command,
            port=port,
            log=log,
            run_id=run_id,
            timeouts=self.smoke.timeouts,
            console=console,
            clean=lambda: self.remove(_name(run_id)),
        ) as server:
            yield server

    def bench_command(self, arguments: tuple[str, ...], result: Path, run_id: str) -> ServerCommand:
        """Inside the server's container; the result is its standard output."""
        saved = ("--save-result", "--result-dir", "/tmp", "--result-filename", Path(_RESULT).name)
        script = f'{_SET_UP}"$@" >&2 && cat {_RESULT}'
        inside = ("bash", "-c", script, "vllm", "vllm", *arguments, *saved)
        outside = ("bash", "-c", 'result=$1; shift; exec "$@" >"$result"', "bench", str(result))
        return ServerCommand(
            (*outside, self.engine, "exec", "-e", "OPENAI_API_KEY", _name(run_id), *inside),
            {},
            contained=True,
            passed=self.settings.pass_environment,
        )

    def reap(self, wanted: Callable[[str], bool]) -> list[str]:
        """Containers by their label, then processes."""
        if shutil.which(self.engine) is None:
            return []
        listed = self._ask("ps", "--all", "--filter", f"label={LABEL}", "--format", "{{.Names}}")
        names = [name for name in listed.split() if name.startswith(_PREFIX)]
        watched = orphans.watched(wanted)
        ids = [name.removeprefix(_PREFIX) for name in names]
        left = [run_id for run_id in ids if wanted(run_id) and run_id not in watched]
        for run_id in left:
            self.remove(_name(run_id))
        return [f"container {_name(run_id)}" for run_id in left] + [
            f"process {process}" for process in orphans.reap(wanted)
        ]

    def remove(self, name: str) -> None:
        """Remove a container, if there is one."""
        with contextlib.suppress(PreflightError):
            self._ask("rm", "--force", name)

    def _devices(self) -> list[str]:
        chosen = self.smoke.container.devices or range(DEVICES[self.smoke.hardware or "a3"])
        return [*(f"davinci{number}" for number in chosen), *_MANAGERS]

    def _ask(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                [self.engine, *arguments],
                capture_output=True,
                text=True,
                timeout=_ENGINE_TIMEOUT_SECONDS,
                check=True,
                env=for_child(self.settings.pass_environment, container=True),
            )
        except subprocess.CalledProcessError as error:
            raise self._unusable(error.stderr.strip() or str(error)) from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise self._unusable(str(error)) from error
        return done.stdout

    def _unusable(self, why: str) -> PreflightError:
        return PreflightError(
            f"`{self.engine}` does not work: {why}",
            where="smoke.launcher",
            hint=f"start it, or let this user use it: `{self.engine} info` has to work",
        )


def _name(run_id: str) -> str:
    return f"{_PREFIX}{run_id}"
