"""What can go wrong between a hub and a client, for the loopback hubs."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase


@dataclass
class Fault:
    """One way to misbehave, for the requests of some files.

    Attributes:
        files: shell pattern of the paths that it affects; `api` is for requests about the repository,
            `xet` for chunks.
        times: how many requests it spoils; None is all of them.
        status: answer with this HTTP status instead of the file.
        headers: sent with the status.
        slow: bytes per second; None is as fast as possible.
        stall_after: send this many bytes of the body, then nothing more.
        cut_after: send this many bytes of the body, then close the connection.
        corrupt: flip a bit in the middle of the body; the size stays right.
        announce: with `cut_after`: claim that the body is no longer than what is sent.
        ignore_range: answer a request for a range with the whole file.
        redirect: answer with a signed address on another origin.
        expired: the other origin refuses the signature (HTTP 403).
        vanish: close the connection without an answer.
    """

    files: str = "*"
    times: int | None = None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    slow: float | None = None
    stall_after: int | None = None
    cut_after: int | None = None
    corrupt: bool = False
    announce: bool = False
    ignore_range: bool = False
    redirect: bool = False
    expired: bool = False
    vanish: bool = False

    def take(self, path: str) -> bool:
        """Whether it spoils this request; counts it."""
        if self.times == 0 or not fnmatchcase(path, self.files):
            return False
        if self.times is not None:
            self.times -= 1
        return True


def gated() -> Fault:
    """The repository is gated by its licence, as Hugging Face reports it."""
    headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted."}
    return Fault(files="*", status=403, headers=headers)


def busy(times: int, *, files: str = "*", status: int = 429, retry_after: str | None = None) -> Fault:
    """Too many requests, or a server error, for the first `times` requests."""
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return Fault(files=files, times=times, status=status, headers=headers)
