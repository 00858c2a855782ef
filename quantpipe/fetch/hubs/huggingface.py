"""The Hugging Face Hub and its mirrors, via huggingface_hub.

HF_ENDPOINT, HF_TOKEN (or the token that `hf auth login` stored) and HF_HUB_OFFLINE are read by the client
when it is imported; proxies as everywhere. Files outside of LFS have a git blob id instead of a SHA-256.
"""

from __future__ import annotations

import importlib
import os
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

from quantpipe.errors import PreflightError
from quantpipe.fetch.hub import PassingFault, RemoteFile, Sink
from quantpipe.fetch.hubs import http
from quantpipe.fetch.hubs.xet import Xet
from quantpipe.redact import add_secret, guard_logger, redact

if TYPE_CHECKING:
    import requests

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ANSWER_SECONDS = 60.0


class HuggingFaceHub:
    """Models on the Hugging Face Hub; `quantpipe.fetch.hub.Hub`."""

    name = "huggingface"
    parallel = 8

    def __init__(self) -> None:
        self._infos: dict[str, Any] = {}

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
        commit = str(info.sha)
        if not _COMMIT.fullmatch(commit):  # it becomes a folder's name
            raise PreflightError(
                f"the hub returned {commit[:80]!r} instead of a commit for {repo}",
                where=self.describe(repo),
                hint="if HF_ENDPOINT names a mirror, it may not support this: use the hub itself",
            )
        self._infos[commit] = info
        return commit

    def list(self, repo: str, commit: str) -> tuple[RemoteFile, ...]:
        """The files at a commit: LFS files with SHA-256, the others with their git blob id."""
        info = self._infos.get(commit) or self._info(repo, commit)
        return tuple(sorted(self._file(repo, sibling) for sibling in info.siblings or ()))

    def read(self, repo: str, commit: str, path: str) -> bytes:
        """The content of a small file."""
        return http.read_small(
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

    def _info(self, repo: str, revision: str | None) -> Any:
        from huggingface_hub import HfApi, get_session
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        what = repo if revision is None else f"{repo} at {revision}"
        httpx = importlib.import_module(type(get_session()).__module__.partition(".")[0])
        _ = self._session  # the token is known to redact() before anything can fail
        try:
            return HfApi(self.endpoint).model_info(
                repo, revision=revision, files_metadata=True, timeout=_ANSWER_SECONDS
            )
        except HfHubHTTPError as error:
            response = error.response
            raise http.explain_status(
                response.status_code, response.headers, what, self.describe(repo)
            ) from None
        except OfflineModeIsEnabled:
            raise PreflightError(
                "offline mode is on, but the source has to be looked up",
                where=self.describe(repo),
                hint="unset HF_HUB_OFFLINE, or use a store that already has the snapshot",
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise PassingFault(redact(f"{what}: {type(error).__name__}: {error}")) from None

    def _file(self, repo: str, sibling: Any) -> RemoteFile:
        if sibling.size is None:
            raise PreflightError(
                f"the hub does not report the size of {sibling.rfilename}",
                where=self.describe(repo),
                hint="if HF_ENDPOINT names a mirror, it may not support this: use the hub itself",
            )
        sha256 = sibling.lfs.sha256 if sibling.lfs is not None else None
        return RemoteFile(
            sibling.rfilename, int(sibling.size), sha256, None if sha256 is not None else sibling.blob_id
        )
