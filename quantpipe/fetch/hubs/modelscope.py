"""ModelScope, by the addresses and the token of modelscope-hub.

MODELSCOPE_ENDPOINT and MODELSCOPE_API_TOKEN (or the stored login) are read by the client. The client has
no commits; the newest one of a revision comes from the hub's own list (`/api/v1/models/<repo>/commits`).
Where a mirror lacks that list, the digest of the file list, hashes included, is used instead.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from quantpipe.checkpoint import strict_json
from quantpipe.errors import PreflightError, RecipeError
from quantpipe.fetch.hub import RemoteFile, Sink
from quantpipe.fetch.hubs import answers, http
from quantpipe.fetch.listing import GIT_SHA1, MAX_FILES, listed_file
from quantpipe.redact import add_secret, guard_logger, redact
from quantpipe.stage import digest_of

if TYPE_CHECKING:
    import requests

_DEFAULT_REVISION = "master"

PAGE_ENTRIES = 3000
"""The hub cuts a list of files off there, silently (modelscope_hub.constants.REPO_FILES_TRUNCATION_LIMIT)."""

MAX_PAGES = 100
"""Folders that are asked for, one or two questions each, for one list of files."""


class Page(NamedTuple):
    """One list of files, of a folder or of all below it.

    Attributes:
        full: it has as many entries as the hub lists: there may be more.
    """

    files: tuple[RemoteFile, ...]
    folders: tuple[str, ...]
    full: bool


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
        if GIT_SHA1.fullmatch(wanted):
            return wanted
        commit = self._newest_commit(repo, wanted)
        if commit is None:
            files = self._list(repo, wanted)
            commit = digest_of([[file.path, file.size, file.sha256] for file in files])
            self._revisions[commit] = wanted
        return commit

    def list(self, repo: str, commit: str) -> tuple[RemoteFile, ...]:
        """The files at a commit, with SHA-256."""
        return self._list(repo, self._revisions.get(commit, commit))

    def read(self, repo: str, commit: str, path: str) -> bytes:
        """The content of a small file."""
        url = self._url(repo, commit, path)
        return answers.read_small(self._session, url, {}, what=path, page=self.describe(repo))

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
            answer = answers.read_small(
                self._session, url, {}, what=f"{repo} at {revision}", page=self.describe(repo)
            )
            return parse_commit(answer)
        except RecipeError:  # no such list here, or no such repository: the file list will show which
            return None

    def _list(self, repo: str, revision: str) -> tuple[RemoteFile, ...]:
        """All files. A list has `PAGE_ENTRIES` at most: a folder with more is asked for folder by folder."""
        found: dict[str, RemoteFile] = {}
        waiting, asked = [""], 0
        while waiting:
            folder = waiting.pop()
            page = self._page(repo, revision, folder)
            if page.full and not (page := self._page(repo, revision, folder, recursive=False)).full:
                waiting += page.folders
            asked += 1
            if page.full or asked > MAX_PAGES or len(found) + len(page.files) > MAX_FILES:
                raise PreflightError(
                    f"{repo} at {revision} has more files than the hub lists, or than quantpipe takes",
                    where=self.describe(repo),
                    hint="check source.repo: this is not a model repository",
                )
            found.update((file.path, file) for file in page.files)
        if not found:
            raise RecipeError(
                f"the hub lists no files for {repo} at {revision}",
                where=self.describe(repo),
                hint="check source.repo and source.revision in the recipe",
            )
        return tuple(found[path] for path in sorted(found))

    def _page(self, repo: str, revision: str, folder: str, *, recursive: bool = True) -> Page:
        query = {"Revision": revision, "Recursive": str(recursive)} | ({"Root": folder} if folder else {})
        url = f"{self._legacy.endpoint}/api/v1/models/{quote(repo)}/repo/files?{urlencode(query)}"
        what, page = f"{repo} at {revision}", self.describe(repo)
        answer = answers.read_small(self._session, url, {}, what=what, page=page)
        return answers.understood(lambda: parse_page(answer), what, page)


def parse_commit(answer: bytes) -> str | None:
    """The newest commit in an answer of `.../commits`; None where it has none that looks like one."""
    try:
        commit = strict_json.parse(answer)["Data"]["Commit"][0]["Id"]
    except (ValueError, KeyError, TypeError, IndexError):
        return None
    return commit if isinstance(commit, str) and GIT_SHA1.fullmatch(commit) else None


def parse_page(answer: bytes) -> Page:
    """Files and folders in an answer of `.../repo/files`.

    Raises:
        PassingFault: it is not JSON.
        ValueError: it says something else; a sentence without its subject.
    """
    value = answers.parse_answer(answer)
    data = value.get("Data") if isinstance(value, dict) else value
    entries = (data.get("Files") if isinstance(data, dict) else data) or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("has no list of files")
    files = [_file(entry) for entry in entries if entry.get("Type") != "tree"]
    folders = [entry.get("Path") for entry in entries if entry.get("Type") == "tree"]
    if not all(isinstance(folder, str) and folder for folder in folders):
        raise ValueError("lists a folder without a path")
    return Page(tuple(files), tuple(map(str, folders)), len(files) + len(folders) >= PAGE_ENTRIES)


def _file(entry: dict[str, Any]) -> RemoteFile:
    sha256, blob = entry.get("Sha256") or None, entry.get("BlobId")
    git_sha1 = blob if not sha256 and isinstance(blob, str) and GIT_SHA1.fullmatch(blob) else None
    sha256 = sha256.lower() if isinstance(sha256, str) else sha256
    return listed_file(entry.get("Path"), entry.get("Size"), sha256, git_sha1)
