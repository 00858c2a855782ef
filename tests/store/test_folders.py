"""Who can read and write in a store, tried by processes of other users."""

from __future__ import annotations

import os
import stat
from functools import partial
from pathlib import Path

import pytest
from helpers.stores import RECIPE, current, published
from helpers.users import COLLEAGUE, GROUP, SERVER, as_user

from quantpipe.store import folders
from quantpipe.store.lease import Lease
from quantpipe.store.status import collect
from quantpipe.store.store import Store

OPERATOR = 4710
UMASKS = [0o000, 0o002, 0o022, 0o027, 0o077]


def publish(root: Path) -> None:
    """What a run does in an empty store, as far as folders go."""
    store = Store(root)
    store.create()
    Lease.for_recipe(root, RECIPE).acquire()
    published(store, "a")


def serve(root: Path) -> None:
    """What a server reads."""
    checkpoint = root / "models" / RECIPE / "current"
    for path in checkpoint.resolve(strict=True).rglob("*"):
        assert path.is_dir() or path.read_bytes()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def shared(open_folder: Path) -> Path:
    """A folder as administrators make it for a group: members create in it, the group is handed down."""
    os.chown(open_folder, 0, GROUP)
    open_folder.chmod(0o2775)
    return open_folder


@pytest.mark.parametrize("umask", UMASKS)
def test_servers_of_other_users_can_read_what_is_published(open_folder: Path, umask: int) -> None:
    open_folder.chmod(0o777)
    root = open_folder / "deep" / "store"
    assert as_user(OPERATOR, lambda: publish(root), umask=umask) is None
    assert as_user(SERVER, lambda: serve(root)) is None
    assert collect(Store(root))[0].current, "and what it imports is imported before we become another user"
    assert as_user(SERVER, lambda: collect(Store(root))) is None


@pytest.mark.parametrize("umask", UMASKS)
def test_nobody_else_can_write_into_what_is_published(shared: Path, umask: int) -> None:
    root = shared / "store"
    assert as_user(OPERATOR, lambda: publish(root), group=GROUP, umask=umask) is None
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
        if RECIPE in folder.parts or folder == root:
            assert not mode(folder) & 0o022, folder


@pytest.mark.parametrize("umask", UMASKS)
def test_members_of_a_group_share_a_store_without_touching_one_another(shared: Path, umask: int) -> None:
    assert as_user(OPERATOR, lambda: publish(shared), group=GROUP, umask=umask) is None
    own = shared / "models" / "another"
    assert as_user(COLLEAGUE, lambda: Store(shared).create(), group=GROUP) is None
    assert as_user(COLLEAGUE, own.mkdir, group=GROUP) is None
    generation = shared / "models" / RECIPE / str(current(Store(shared)))
    for target in (shared / "models" / RECIPE, generation, generation / "model.safetensors"):
        move = partial(target.rename, target.with_name("moved"))
        assert as_user(COLLEAGUE, move, group=GROUP) == "PermissionError"
    lease = shared / "leases" / f"{RECIPE}.json"
    assert as_user(COLLEAGUE, lease.touch, group=GROUP) == "PermissionError"
    assert as_user(COLLEAGUE, lease.unlink, group=GROUP) == "PermissionError"
    assert (shared / "models").stat().st_gid == GROUP


@pytest.mark.parametrize("umask", UMASKS)
def test_staging_is_out_of_reach_and_a_run_belongs_to_who_began_it(shared: Path, umask: int) -> None:
    def begin() -> None:
        folders.make_private(Store(shared).new_run(RECIPE).staging)

    assert as_user(OPERATOR, begin, group=GROUP, umask=umask) is None
    run = Store(shared).runs(RECIPE)[0]
    assert as_user(COLLEAGUE, lambda: list(run.staging.iterdir()), group=GROUP) == "PermissionError"
    for folder in (run.path, run.logs, run.receipt_path("fetch").parent):
        assert as_user(COLLEAGUE, (folder / "x").touch, group=GROUP) == "PermissionError"


def test_folders_that_somebody_else_made_are_not_changed(open_folder: Path) -> None:
    root = open_folder / "store"
    root.mkdir(mode=0o700)
    (root / "models").mkdir(mode=0o750)
    publish(root)
    assert (mode(root), mode(root / "models")) == (0o700, 0o750)
    assert folders.closed(root / "models" / RECIPE, below=root) == [root, root / "models"]
    modes, command = folders.how_to_open([root, root / "models"])
    assert modes == f"{root} has mode 0700, {root / 'models'} has mode 0750"
    assert command == f"chmod o+x {root} {root / 'models'}"
    assert as_user(SERVER, lambda: serve(root)) == "PermissionError"
    root.chmod(0o701)
    (root / "models").chmod(0o751)
    assert as_user(SERVER, lambda: serve(root)) is None
    assert folders.closed(root / "models" / RECIPE) == []


def test_a_staging_directory_of_an_earlier_version_becomes_private(tmp_path: Path) -> None:
    staging = tmp_path / "staging"
    staging.mkdir()
    staging.chmod(0o2775)
    folders.make_private(staging)
    assert mode(staging) & 0o777 == 0o700
