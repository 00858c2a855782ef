"""What a filesystem cannot do is found before the first byte: with faults planted, and on real mounts."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.commands import QUANTPIPE, environment, quantpipe, write_recipe
from helpers.users import COLLEAGUE, as_user

from quantpipe import durable
from quantpipe.errors import PreflightError, QuantpipeError, RetryableError
from quantpipe.store.trial import Abilities, check_publish, check_semantics, check_store

NAME = "tiny-qwen3-moe-w8a8-rot"


def test_semantics_leave_nothing_behind(tmp_path: Path) -> None:
    check_semantics(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_the_trial_of_a_store_leaves_no_folder_that_was_not_there(tmp_path: Path) -> None:
    check_store(tmp_path / "deep" / "store")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EROFS, PreflightError),
        (errno.EACCES, PreflightError),
        (errno.EINVAL, PreflightError),
        (errno.EOPNOTSUPP, PreflightError),
        (errno.EIO, RetryableError),
    ],
)
@pytest.mark.parametrize("call", ["fsync_file", "fsync_directory"])
def test_store_that_cannot_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, kind: type[QuantpipeError]
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(durable, call, refuse)
    with pytest.raises(kind) as caught:
        check_semantics(tmp_path)
    assert caught.value.hint
    assert caught.value.where == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_store_without_symbolic_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(PreflightError):
        check_semantics(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_renames_that_do_not_replace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "write_bytes", lambda path, data: path.write_bytes(b"old"))
    with pytest.raises(PreflightError, match="did not replace the file"):
        check_semantics(tmp_path)


def test_a_trial_where_a_file_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(PreflightError) as caught:
        check_store(tmp_path / "store")
    assert caught.value.where == str(tmp_path / "store")
    assert (tmp_path / "store").is_file()


# -- from a run to the generations ------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """The folder of a run, and the one of the generations."""
    run, model = tmp_path / "runs" / "tiny" / "1", tmp_path / "models" / "tiny"
    for folder in (run, model):
        folder.mkdir(parents=True)
    return run, model


def test_the_trial_of_a_publish_leaves_nothing(folders: tuple[Path, Path]) -> None:
    assert check_publish(*folders) == Abilities(hard_links=True, exchange=True)
    assert [list(folder.iterdir()) for folder in folders] == [[], []]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_a_filesystem_without_hard_links_will_do(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    assert check_publish(*folders) == Abilities(hard_links=False, exchange=True)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_so_will_one_that_cannot_exchange_names(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> bool:
        if number == errno.EINVAL:
            return False
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(durable, "_renameat2", refuse)
    assert check_publish(*folders) == Abilities(hard_links=True, exchange=False)


def test_somebody_else_s_generations(open_folder: Path) -> None:
    run, model = open_folder / "run", open_folder / "model"
    run.mkdir()
    model.mkdir()
    os.chown(run, COLLEAGUE, COLLEAGUE)
    check_publish(run, model)
    assert as_user(COLLEAGUE, lambda: check_publish(run, model)) == "PreflightError"
    assert [list(folder.iterdir()) for folder in (run, model)] == [[], []]


# -- real mounts --------------------------------------------------------------------------------------

Mount = Callable[..., None]


def do(*command: str | Path) -> None:
    try:
        subprocess.run([str(word) for word in command], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs root and mounts: {error}")


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Mounts something on a folder until the test ends."""
    mounted: list[Path] = []

    def mount(place: Path, *arguments: str | Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        do("mount", *arguments, place)
        mounted.append(place)

    yield mount
    for place in reversed(mounted):
        subprocess.run(["umount", str(place)], check=True)


def tmpfs(mount: Mount, place: Path, base: Path) -> None:
    del base
    mount(place, "-t", "tmpfs", "none")


def bind(mount: Mount, place: Path, base: Path) -> None:
    """The same filesystem by another mount: renames do not cross, as between quota projects."""
    (base / "elsewhere").mkdir()
    mount(place, "--bind", base / "elsewhere")


@pytest.mark.parametrize("another", [tmpfs, bind])
@pytest.mark.parametrize("place", ["models", f"models/{NAME}", "runs"])
def test_a_part_of_the_store_that_is_another_mount(
    tmp_path: Path, mount: Mount, another: Callable[[Mount, Path, Path], None], place: str
) -> None:
    run, model = tmp_path / "runs" / NAME / "1", tmp_path / "models" / NAME
    another(mount, tmp_path / place, tmp_path)
    for folder in (run, model):
        folder.mkdir(parents=True, exist_ok=True)
    with pytest.raises(PreflightError, match="spans more than one filesystem") as caught:
        check_publish(run, model)
    assert caught.value.where == f"{run} -> {model}"
    if place != f"models/{NAME}":
        with pytest.raises(PreflightError, match="spans more than one filesystem"):
            check_store(tmp_path)
    assert [list(folder.iterdir()) for folder in (run, model)] == [[], []]


def test_a_run_ends_before_its_first_byte(tmp_path: Path, mount: Mount) -> None:
    store = tmp_path / "store"
    tmpfs(mount, store / "models", tmp_path)
    done = quantpipe("run", write_recipe(tmp_path), "--store", store)
    assert done.status == 5
    assert "the store spans more than one filesystem" in done.stderr
    assert not (store / "sources").exists()
    shutil.rmtree(store / "runs")


def test_without_a_folder_for_temporary_files(tmp_path: Path) -> None:
    """A container with a read-only root and nothing mounted at /tmp."""
    recipe = write_recipe(tmp_path)
    script = (
        f"mount --bind {tmp_path} /mnt && for p in /tmp /var/tmp; do mount -t tmpfs -o ro none $p; done"
        f' && cd /proc && unset TMPDIR && exec "$0" plan /mnt/{recipe.name} --store /mnt/store'
    )
    do("unshare", "--mount", "true")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, str(QUANTPIPE)],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 5, done.stderr
    assert "no folder for temporary files is writable" in done.stdout
    assert "TMPDIR" in done.stdout
