from __future__ import annotations

import os
from dataclasses import replace

from quantpipe.host import procfs
from quantpipe.store.owner import Owner


def test_owner_token_round_trip() -> None:
    me = Owner.me()
    found = Owner.from_token(me.token)
    assert found is not None
    assert replace(found, host=me.host) == me
    assert me.may_live()
    assert me.on_this_host()
    assert not replace(me, start=me.start + 1).may_live()
    assert replace(me, realm="0" * 16).may_live()
    assert Owner.from_token("a-b") is None


def test_a_living_process_may_live_and_a_reused_process_id_does_not() -> None:
    parent = os.getppid()
    start = procfs.start_of(parent)
    assert start is not None
    assert Owner("host", procfs.realm(), parent, start).may_live()
    assert not Owner("host", procfs.realm(), parent, start - 1).may_live()


def test_a_process_of_another_host_may_live() -> None:
    owner = Owner("other", "0" * 16, 1, 1)
    assert not owner.on_this_host()
    assert owner.may_live()
