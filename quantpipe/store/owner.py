"""The process that holds a lease or writes a partial file, so that others can see whether it is alive."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from quantpipe.host import procfs


@dataclass(frozen=True)
class Owner:
    """A process, identified so that others can see whether it is alive.

    Attributes:
        host: name of the host, for people.
        realm: boot id and process namespace, shortened: process ids mean something only within it.
        pid: process id within the realm.
        start: when the process started, clock ticks since boot: a reused pid has another one.
    """

    host: str
    realm: str
    pid: int
    start: int

    @classmethod
    def me(cls) -> Owner:
        """This process."""
        pid = os.getpid()
        return cls(socket.gethostname(), procfs.realm(), pid, procfs.start_of(pid) or 0)

    @property
    def token(self) -> str:
        """The owner as a part of a file name."""
        return f"{self.realm}-{self.pid}-{self.start}"

    @classmethod
    def from_token(cls, token: str) -> Owner | None:
        """Read what `token` gave; None where it is not a token."""
        try:
            realm, pid, start = token.split("-")
            return cls("", realm, int(pid), int(start))
        except ValueError:
            return None

    def on_this_host(self) -> bool:
        """Whether its process id is valid here."""
        return self.realm == procfs.realm()

    def may_live(self) -> bool:
        """False only where the process is known to be gone."""
        return not self.on_this_host() or procfs.start_of(self.pid) == self.start
