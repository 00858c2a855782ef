"""Other users of a store: what they can do, found out by a process of theirs."""

from __future__ import annotations

import encodings.ascii  # noqa: F401  (what is imported later may lie where other users cannot read)
import os
import traceback
from collections.abc import Callable

SERVER = 65534
"""The uid of a server: it shares no group with whoever publishes."""

COLLEAGUE = 4711
"""Another member of the group that shares a store."""

GROUP = 4242


def as_user(
    uid: int, action: Callable[[], object], *, group: int | None = None, umask: int = 0o022
) -> str | None:
    """Run `action` in a process of this user; the name of the exception that ended it, None for success."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.umask(umask)
            os.setgroups([] if group is None else [group])
            os.setgid(uid if group is None else group)
            os.setuid(uid)
            action()
        except BaseException as error:
            traceback.print_exc()
            os.write(writer, type(error).__name__.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answers:
        answer = answers.read()
    os.waitpid(child, 0)
    return answer or None
