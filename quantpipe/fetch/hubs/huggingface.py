"""The Hugging Face Hub and its mirrors, by the addresses and the token of huggingface_hub.

HF_ENDPOINT, HF_TOKEN (or the token that `hf auth login` stored) and HF_HUB_OFFLINE are read by the client
when it is imported; proxies as everywhere. Files outside of LFS have a git blob id instead of a SHA-256.
"""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from quantpipe.fetch.hub import RemoteFile, Sink
from quantpipe.fetch.hubs import answers, http
from quantpipe.fetch.hubs.xet import Xet
from quantpipe.fetch.listing import GIT_SHA1, listed_file
from quantpipe.redact import add_secret, guard_logger, redact

if TYPE_CHECKING:
    import requests


class Info(NamedTuple):
    """What the hub says about a repository at a revision."""

    commit: str
    files: tuple[RemoteFile, ...]


class HuggingFaceHub:
    """Models on the Hugging Face Hub; `quantpipe.fetch.hub.Hub`."""

    name = "huggingface"
    parallel = 8

    def __init__(self) -> None:
        self._infos: dict[str, Info] = {}

    @property
    def offline(self) -> bool:
        """Whether the user wants no network (HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE)."""
        from huggingface_hub import constants

        return bool(constants.is_offline_mode())

    @property
    def endpoint(self) -> str:
        """The hub's address: HF_ENDPOINT, or the client's default."""
        from huggingface_hub import constants

        return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")

    def describe(self, repo: str) -> str:
        """The repository's page."""
        return redact(f"{self.endpoint}/{repo}")

    def folder(self, repo: str) -> str:
        """The repository's name as it is."""
        return repo

    def resolve(self, repo: str, revision: str | None) -> str:
        """The commit of a branch, tag or commit; None is `main`."""
        info = self._info(repo, revision)
        self._infos[info.commit] = info
        return info.commit

    def list(self, repo: str, commit: str) -> tuple[RemoteFile, ...]:
        """The files at a commit: LFS files with SHA-256, the others with their git blob id."""
        return (self._infos.get(commit) or self._info(repo, commit)).files

    def read(self, repo: str, commit: str, path: str) -> bytes:
        """The content of a small file."""
        return answers.read_small(
            self._session, self._url(repo, commit, path), {}, what=path, page=self.describe(repo)
        )

    def fetch(self, repo: str, commit: str, file: RemoteFile, sink: Sink) -> None:
        """The bytes from `sink.offset` on: by Xet, or by a ranged request."""
        url = self._url(repo, commit, file.path)
        if file.sha256 is not None and self._xet.deliver(url, file, sink):
            return
        http.download(self._session, url, {}, file, sink, page=self.describe(repo))

    def close(self) -> None:
        """Close this hub's connections; the client keeps its own."""
        self._session.close()

    @cached_property
    def _session(self) -> requests.Session:
        # Public, though their __init__ has no __all__ that would say so to mypy.
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        guard_logger("huggingface_hub")
        headers = build_hf_headers(library_name="quantpipe")
        token = headers.pop("authorization", "").removeprefix("Bearer ")
        add_secret(token)
        session = http.make_session(token or None)
        session.headers.update(headers)
        return session

    @cached_property
    def _xet(self) -> Xet:
        return Xet(self._session)

    def _url(self, repo: str, commit: str, path: str) -> str:
        from huggingface_hub import hf_hub_url

        return str(hf_hub_url(repo, path, revision=commit, endpoint=self.endpoint))

    def _info(self, repo: str, revision: str | None) -> Info:
        """Ask for commit and files. The client's own question has neither a limit nor a deadline."""
        what = repo if revision is None else f"{repo} at {revision}"
        at = "" if revision is None else f"/revision/{quote(revision, safe='')}"
        url = f"{self.endpoint}/api/models/{quote(repo)}{at}?blobs=true"
        page = self.describe(repo)
        answer = answers.read_small(self._session, url, {}, what=what, page=page)
        return answers.understood(lambda: parse_info(answer), what, page)


def parse_info(answer: bytes) -> Info:
    """Commit and files in an answer of `/api/models/<repo>`.

    Raises:
        PassingFault: it is not JSON: of a proxy, say.
        ValueError: it says something else; a sentence without its subject.
    """
    value = answers.parse_answer(answer)
    siblings = value.get("siblings") if isinstance(value, dict) else None
    commit = value.get("sha") if isinstance(value, dict) else None
    if not isinstance(siblings, list) or not all(isinstance(sibling, dict) for sibling in siblings):
        raise ValueError("has no list of files")
    if not isinstance(commit, str) or not GIT_SHA1.fullmatch(commit):  # it becomes a folder's name
        raise ValueError(f"returned {commit!r:.80} instead of a commit")
    return Info(commit, tuple(sorted((_file(sibling) for sibling in siblings), key=lambda file: file.path)))


def _file(sibling: dict[str, Any]) -> RemoteFile:
    lfs = sibling.get("lfs")
    if lfs is None:
        return listed_file(sibling.get("rfilename"), sibling.get("size"), None, sibling.get("blobId"))
    sha256 = lfs.get("sha256") if isinstance(lfs, dict) else None
    return listed_file(sibling.get("rfilename"), sibling.get("size"), sha256)
