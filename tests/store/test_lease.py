from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from quantpipe.errors import LeaseHeldError, PreflightError
from quantpipe.store.lease import Lease
from quantpipe.store.owner import Owner

_HOLD = """
import sys, time
from pathlib import Path
from quantpipe.store.lease import Lease
Lease.for_recipe(Path(sys.argv[1]), "tiny", run="run-1").acquire()
sys.stdout.write("held\\n"); sys.stdout.flush()
time.sleep(60)
"""


def hold(store: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(store)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def pretend(path: Path, **owner: object) -> None:
    """Rewrite a lease as if another process held it."""
    value = json.loads(path.read_text())
    value["owner"].update(owner)
    value["nonce"] = "another"
    path.write_text(json.dumps(value))


def test_held_by_a_living_process(tmp_path: Path) -> None:
    process = hold(tmp_path)
    try:
        with pytest.raises(LeaseHeldError) as caught:
            Lease.for_recipe(tmp_path, "tiny").acquire()
        assert caught.value.exit_code == 11
        assert str(process.pid) in str(caught.value)
        assert "run-1" in str(caught.value)
        assert "recipe tiny" in str(caught.value)
        assert caught.value.hint
        Lease.for_recipe(tmp_path, "other").acquire()
    finally:
        process.kill()
        process.communicate()


def test_left_behind_by_sigkill_is_reclaimed_at_once(tmp_path: Path) -> None:
    process = hold(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    started = time.monotonic()
    with Lease.for_recipe(tmp_path, "tiny") as lease:
        assert time.monotonic() - started < 1.0
        holder = lease.holder()
        assert holder is not None
        assert holder.owner == Owner.me()
    assert list((tmp_path / "leases").iterdir()) == []


def test_reused_process_id_is_not_the_holder(tmp_path: Path) -> None:
    lease = Lease.for_recipe(tmp_path, "tiny")
    with lease:
        pretend(lease.path, start=Owner.me().start - 1)
        assert Lease.for_recipe(tmp_path, "tiny").try_acquire()


def test_other_host_keeps_it_until_it_lapses(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    first = Lease(path, lapse=120)
    first.acquire()
    pretend(path, realm="0" * 16, host="elsewhere")
    with pytest.raises(LeaseHeldError, match="elsewhere"):
        Lease(path, lapse=120).acquire()
    old = time.time() - 130
    os.utime(path, (old, old))
    second = Lease(path, lapse=120)
    assert second.try_acquire()
    second.release()
    first.release()
    assert not path.exists()


def test_refreshed_while_held_and_loss_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with Lease(path, lapse=0.4) as lease:
        os.utime(path, (0, 0))
        limit = time.monotonic() + 5
        while path.stat().st_mtime < 1 and time.monotonic() < limit:
            time.sleep(0.02)
        assert path.stat().st_mtime > 1, "nothing refreshed the lease"
        pretend(path)
        while not lease.lost and time.monotonic() < limit:
            time.sleep(0.02)
        assert lease.lost
    assert path.exists(), "the lease of another process was removed"


def test_two_leases_in_one_process_exclude_each_other(tmp_path: Path) -> None:
    first, second = Lease(tmp_path / "x.json"), Lease(tmp_path / "x.json")
    assert first.try_acquire()
    assert not second.try_acquire()
    first.release()
    assert second.try_acquire()
    second.release()
    second.release()


def test_many_contenders_one_winner(tmp_path: Path) -> None:
    process = hold(tmp_path)
    process.kill()
    process.communicate()
    leases = [Lease.for_recipe(tmp_path, "tiny") for _ in range(8)]
    won: list[Lease] = []
    start = threading.Barrier(len(leases))

    def contend(lease: Lease) -> None:
        start.wait()
        if lease.try_acquire():
            won.append(lease)

    threads = [threading.Thread(target=contend, args=(lease,)) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) >= 1
    holder = leases[0].holder()
    assert holder is not None
    assert sum(not lease.lost and lease._mine() for lease in won) == 1
    for lease in won:
        lease.release()


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EPERM])  # EPERM: vfat, sshfs
def test_filesystem_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    first, second = Lease(tmp_path / "x.json"), Lease(tmp_path / "x.json")
    assert first.try_acquire()
    assert not second.try_acquire()
    first.release()


def test_unreadable_lease_lapses(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("{")
    with pytest.raises(LeaseHeldError):
        Lease(path).acquire()
    os.utime(path, (0, 0))
    with Lease(path):
        pass


def test_store_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(PreflightError, match="lease"):
        Lease(tmp_path / "x.json").acquire()


@pytest.mark.parametrize("call", ["read_text", "unlink"])
def test_a_fault_while_giving_back_is_no_fault_of_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with Lease(tmp_path / "x.json"):
        monkeypatch.setattr(Path, call, fail)


def lease_of_tomorrow(path: Path) -> Lease:
    """A lease of another host, as it looks after the file server's clock was set back by a day."""
    lease = Lease(path, lapse=120)
    lease.acquire()
    pretend(path, realm="0" * 16, host="elsewhere")
    tomorrow = time.time() + 86400
    os.utime(path, (tomorrow, tomorrow))
    return lease


def test_a_lease_of_the_future_lapses_by_being_watched(tmp_path: Path) -> None:
    """A dead holder's lease must not hold for that day."""
    path = tmp_path / "x.json"
    first = lease_of_tomorrow(path)
    started = time.monotonic()
    second = Lease(path, lapse=0.8)
    assert second.try_acquire()
    assert 0.8 <= time.monotonic() - started < 10
    second.release()
    first.release()


def test_a_living_holder_of_the_future_keeps_its_lease(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    first = lease_of_tomorrow(path)
    beat = threading.Timer(0.3, os.utime, (path,))
    beat.start()
    assert not Lease(path, lapse=4).try_acquire()
    beat.join()
    first.release()


@pytest.mark.parametrize("content", ["", "{"])
def test_an_unreadable_lease_is_nobodys_after_a_beat(tmp_path: Path, content: str) -> None:
    """What a power cut leaves of a lease that was not flushed."""
    path = tmp_path / "x.json"
    path.write_text(content)
    lately = time.time() - 16
    os.utime(path, (lately, lately))
    with Lease(path, lapse=120) as lease:
        assert lease._mine()


def test_the_claim_is_flushed_before_it_is_a_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    flushed: list[bool] = []
    monkeypatch.setattr("quantpipe.durable.fsync_file", lambda claim: flushed.append(path.exists()))
    with Lease(path):
        assert flushed == [False]


def test_a_link_that_was_made_though_it_failed_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS: the answer was lost."""
    link = os.link

    def unheard(source: Path, target: Path) -> None:
        link(source, target)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "link", unheard)
    with Lease.for_recipe(tmp_path, "tiny") as lease:
        lease.require()
    assert not lease.path.exists()


def test_without_a_thread_to_refresh_it_none_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    lease = Lease.for_recipe(tmp_path, "tiny")
    with pytest.raises(RuntimeError):
        lease.acquire()
    assert not lease.path.exists()
    lease.release()
