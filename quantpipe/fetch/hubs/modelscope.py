"""ModelScope, through modelscope-hub.

MODELSCOPE_ENDPOINT and MODELSCOPE_API_TOKEN (or the stored login) are read by the client. The client has
no commits; the newest one of a revision comes from the hub's own list (`/api/v1/models/<repo>/commits`).
Where a mirror lacks that list, the digest of the file list, hashes included, is used instead.
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from quantpipe.errors import RecipeError
from quantpipe.fetch.hub import PassingFault, RemoteFile, Sink
from quantpipe.fetch.hubs import http
from quantpipe.redact import add_secret, guard_logger, redact
from quantpipe.stage import digest_of

if TYPE_CHECKING:
    import requests

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DEFAULT_REVISION = "master"


class ModelScopeHub:
    """Models on ModelScope; `quantpipe.fetch.hub.Hub`."""

    name = "modelscope"
    parallel = 4
    offline = False

    def __init__(self) -> None:
        self._revisions: dict[str, str] = {}

    def describe(self, repo: str) -> str:
        """The repository's page."""
        return redact(f"{self._legacy.endpoint}/models/{repo}")

    def folder(self, repo: str) -> str:
        """The repository's name as it is."""
        return repo

    def resolve(self, repo: str, revision: str | None) -> str:
        """The commit of a branch, tag or commit; None is `master`."""
        wanted = revision or _DEFAULT_REVISION
        if _COMMIT.fullmatch(wanted):
            return wanted
        commit = self._newest_commit(repo, wanted)
        if commit is None:
            files = self._list(repo, wanted)
            commit = digest_of([[file.path, file.size, file.sha256] for file in files])
            self._revisions[commit] = wanted
        return commit

    def list(self, repo: str, commit: str) -> tuple[RemoteFile, ...]:
        """The files at a commit, all with SHA-256."""
        return self._list(repo, self._revisions.get(commit, commit))

    def read(self, repo: str, commit: str, path: str) -> bytes:
        """The content of a small file."""
        url = self._url(repo, commit, path)
        return http.read_small(self._session, url, {}, what=path, page=self.describe(repo))

    def fetch(self, repo: str, commit: str, file: RemoteFile, sink: Sink) -> None:
        """The bytes from `sink.offset` on, by a ranged request."""
        url = self._url(repo, commit, file.path)
        http.download(self._session, url, {}, file, sink, page=self.describe(repo))

    def close(self) -> None:
        """Close this hub's connections and, as far as possible, the client's."""
        self._session.close()
        for name in ("_session", "_read_session"):
            session = getattr(self._legacy, name, None)
            if session is not None:
                session.close()

    @cached_property
    def _api(self) -> Any:
        from modelscope_hub import HubApi
        from modelscope_hub.config import HubConfig

        guard_logger("modelscope_hub")
        return HubApi(HubConfig(), user_agent="quantpipe")

    @cached_property
    def _legacy(self) -> Any:
        """The part of the client for the interface that serves files."""
        return self._api.legacy

    @cached_property
    def _session(self) -> requests.Session:
        from modelscope_hub.utils import build_user_agent

        token = self._legacy.token or None
        add_secret(token)
        session = http.make_session(token)
        session.headers["User-Agent"] = build_user_agent(extra="quantpipe")
        if token:
            host = urlsplit(self._legacy.endpoint).hostname or ""
            session.cookies.set("m_session_id", token, domain=host, path="/")
        return session

    def _url(self, repo: str, commit: str, path: str) -> str:
        revision = self._revisions.get(commit, commit)
        return str(self._legacy.get_download_url(repo, "model", path, revision))

    def _newest_commit(self, repo: str, revision: str) -> str | None:
        query = urlencode({"Ref": revision, "PageNumber": 1, "PageSize": 1})
        url = f"{self._legacy.endpoint}/api/v1/models/{quote(repo)}/commits?{query}"
        try:
            answer = http.read_small(
                self._session, url, {}, what=f"{repo} at {revision}", page=self.describe(repo)
            )
            commit = json.loads(answer)["Data"]["Commit"][0]["Id"]
        except RecipeError:  # no such list here, or no such repository: the file list will show which
            return None
        except (ValueError, KeyError, TypeError, IndexError):
            return None
        return commit if isinstance(commit, str) and _COMMIT.fullmatch(commit) else None

    def _list(self, repo: str, revision: str) -> tuple[RemoteFile, ...]:
        listed = self._asked(repo, revision)
        files = tuple(sorted(_file(info) for info in listed if not info.is_dir))
        if not files:
            raise RecipeError(
                f"the hub lists no files for {repo} at {revision}",
                where=self.describe(repo),
                hint="check source.repo and source.revision in the recipe",
            )
        return files

    def _asked(self, repo: str, revision: str) -> Any:
        import requests
        from modelscope_hub.errors import APIError, HubError

        _ = self._session  # the token is known to redact() before anything can fail
        what = f"{repo} at {revision}"
        try:
            return self._api.list_repo_files(repo, "model", revision=revision)
        except APIError as error:
            raise self._explained(error, repo, what) from None
        except (HubError, requests.RequestException) as error:
            raise PassingFault(redact(f"{what}: {type(error).__name__}: {error}")) from None

    def _explained(self, error: Any, repo: str, what: str) -> Exception:
        wait = getattr(error, "retry_after", None)
        headers = {} if wait is None else {"Retry-After": str(wait)}
        if error.status_code is None:
            return PassingFault(redact(f"{what}: {error}"))
        return http.explain_status(int(error.status_code), headers, what, self.describe(repo))


def _file(info: Any) -> RemoteFile:
    sha256, blob = (str(value or "").lower() for value in (info.sha256, info.blob_id))
    git_sha1 = blob if not sha256 and _COMMIT.fullmatch(blob) else None
    return RemoteFile(info.path, int(info.size), sha256 or None, git_sha1)
