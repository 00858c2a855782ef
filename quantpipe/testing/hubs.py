"""Hubs on the loopback interface that speak the real ones' HTTP, so that the real clients can be tested.

    with HuggingFaceServer({"owner/name": repository}) as server:
        server.faults.append(Fault(files="*.safetensors", times=1, cut_after=1000))
        subprocess.run([...], env={**os.environ, **server.environment()})

The interfaces are those that huggingface_hub 2.4 and modelscope-hub 0.5 ask for: the list of files with
hashes, the address of a file, ranges, redirects to signed addresses, and the errors' headers.
"""

from __future__ import annotations

import re
import time
from typing import Any
from urllib.parse import unquote

from quantpipe.checkpoint.names import SHARD_SUFFIX
from quantpipe.testing.answers import Answer, json_answer
from quantpipe.testing.repository import Repository
from quantpipe.testing.server import HubServer

XET_TOKEN = "xetPLANTEDplantedTOKEN"
"""The token for chunks; tests check that it does not leak."""

_LFS_SUFFIXES = (SHARD_SUFFIX, ".bin", ".pt", ".gguf")


class HuggingFaceServer(HubServer):
    """The Hugging Face Hub's interface; its default branch is `main`.

    Args:
        hashes: whether the list of files has hashes, which some mirrors lack.
        xet: say that large files are in Xet, and give out tokens for it. The storage itself is not
            simulated: requests for chunks meet the faults for `xet`, or HTTP 404.
    """

    def __init__(
        self,
        repositories: dict[str, Repository],
        *,
        token: str | None = None,
        xet: bool = False,
        hashes: bool = True,
    ) -> None:
        super().__init__(repositories, token=token)
        self._xet = xet
        self._hashes = hashes

    def environment(self) -> dict[str, str]:
        """HF_ENDPOINT, and no detours."""
        off = {} if self._xet else {"HF_HUB_DISABLE_XET": "1"}
        return {"HF_ENDPOINT": self.endpoint, "HF_HUB_DISABLE_TELEMETRY": "1", **off}

    def api(self, path: str, query: dict[str, str]) -> Answer | None:
        """`/api/models/<repo>[/revision/<revision>]` and `/api/models/<repo>/tree/<revision>`."""
        if "/xet-read-token/" in path and self._xet:
            expires = str(int(time.time()) + 3600)
            access = {"X-Xet-Cas-Url": f"{self.storage}/xet", "X-Xet-Access-Token": XET_TOKEN}
            return Answer(200, {**access, "X-Xet-Token-Expiration": expires})
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?(?:/.*)?", path)
        if match is None:
            return None
        repository = self.repositories.get(match[1])
        if repository is None:
            return Answer(401, {"X-Error-Code": "RepoNotFound"})
        commit = repository.find(unquote(match[3] or "main"))
        if commit is None:
            return Answer(404, {"X-Error-Code": "RevisionNotFound"})
        files = [self._sibling(repository, commit, name) for name in sorted(repository.commits[commit])]
        if match[2] == "tree":
            return json_answer([_tree_entry(file) for file in files])
        return json_answer(
            {"id": match[1], "modelId": match[1], "sha": commit, "siblings": files, "tags": []}
        )

    def locate(self, path: str, query: dict[str, str]) -> tuple[Repository, str, str] | Answer | None:
        """`/<repo>/resolve/<revision>/<path>`."""
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        repository = self.repositories.get(match[1]) if match else None
        commit = repository.find(unquote(match[2])) if match and repository else None
        if match is None or repository is None or commit is None:
            return None
        name = unquote(match[3])
        if name not in repository.commits[commit]:
            return Answer(404, {"X-Error-Code": "EntryNotFound"})
        return repository, commit, name

    def file_headers(self, repository: Repository, commit: str, path: str) -> dict[str, str]:
        """The commit and the hash: SHA-256 for LFS files, the git blob id for others."""
        size, sha256, blob = repository.facts(commit, path)
        etag = sha256 if path.endswith(_LFS_SUFFIXES) else blob
        linked = {"X-Linked-Size": str(size), "X-Linked-Etag": f'"{etag}"'}
        if self._xet and path.endswith(_LFS_SUFFIXES):
            route = f"{self.endpoint}/api/models/any/any/xet-read-token/{commit}"
            linked |= {"X-Xet-Hash": sha256, "Link": f'<{route}>; rel="xet-auth"'}
        return {"X-Repo-Commit": commit, "ETag": f'"{etag}"', **linked}

    def _sibling(self, repository: Repository, commit: str, path: str) -> dict[str, Any]:
        size, sha256, blob = repository.facts(commit, path)
        if not self._hashes:
            return {"rfilename": path, "size": size}
        entry: dict[str, Any] = {"rfilename": path, "size": size, "blobId": blob}
        if path.endswith(_LFS_SUFFIXES):
            entry["lfs"] = {"sha256": sha256, "size": size, "pointerSize": 135}
        return entry


class ModelScopeServer(HubServer):
    """ModelScope's interface; its default branch is `master`.

    Args:
        commits: whether the list of commits is there, which some mirrors lack.
        hashes: whether the list of files has hashes, which some mirrors lack.
        page: entries at which a list of files is cut off.
    """

    def __init__(
        self,
        repositories: dict[str, Repository],
        *,
        token: str | None = None,
        commits: bool = True,
        hashes: bool = True,
        page: int = 3000,
    ) -> None:
        super().__init__(repositories, token=token)
        self._commits = commits
        self._hashes = hashes
        self._page = page

    def environment(self) -> dict[str, str]:
        """MODELSCOPE_ENDPOINT."""
        return {"MODELSCOPE_ENDPOINT": self.endpoint}

    def api(self, path: str, query: dict[str, str]) -> Answer | None:
        """`/api/v1/models/<repo>/repo/files`, `.../commits` and `.../revisions`."""
        match = re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)/(repo/files|commits|revisions)", path)
        if match is None:
            return None
        repository = self.repositories.get(match[1])
        if repository is None:
            return _data(None, status=404, code=10010205001)
        if match[2] == "revisions":
            branches = [{"Revision": name} for name in repository.branches]
            return _data({"RevisionMap": {"Branches": branches, "Tags": []}})
        commit = repository.find(query.get("Ref") or query.get("Revision") or "master")
        if match[2] == "commits":
            if not self._commits:
                return Answer(404)
            listed = [] if commit is None else [{"Id": commit, "ShortId": commit[:8]}]
            return _data({"Commit": listed, "TotalCount": len(listed)})
        if commit is None:
            return _data(None, status=404, code=10010205001)
        return _data({"Files": self._listed(repository, commit, query)[: self._page]})

    def locate(self, path: str, query: dict[str, str]) -> tuple[Repository, str, str] | Answer | None:
        """`/api/v1/models/<repo>/repo?Revision=&FilePath=`."""
        match = re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)/repo", path)
        repository = self.repositories.get(match[1]) if match else None
        if repository is None:
            return None
        commit, name = repository.find(query.get("Revision", "master")), query.get("FilePath", "")
        if commit is None or name not in repository.commits[commit]:
            return _data(None, status=404, code=10010205001)
        return repository, commit, name

    def _listed(self, repository: Repository, commit: str, query: dict[str, str]) -> list[dict[str, Any]]:
        """The files below `Root`; of a list that is not `Recursive`, those in it, and its folders."""
        root = f"{query['Root']}/" if query.get("Root") else ""
        below = sorted(path for path in repository.commits[commit] if path.startswith(root))
        if query.get("Recursive") != "False":
            return [self._entry(repository, commit, path) for path in below]
        names = [path.removeprefix(root) for path in below]
        folders = sorted({name.split("/")[0] for name in names if "/" in name})
        files = [self._entry(repository, commit, root + name) for name in names if "/" not in name]
        return [*files, *({"Path": f"{root}{name}", "Name": name, "Type": "tree"} for name in folders)]

    def _entry(self, repository: Repository, commit: str, path: str) -> dict[str, Any]:
        size, sha256, _ = repository.facts(commit, path)
        if not self._hashes:
            sha256 = ""
        name = path.rpartition("/")[2]
        return {"Path": path, "Name": name, "Size": size, "Sha256": sha256, "Type": "blob"}


def _tree_entry(sibling: dict[str, Any]) -> dict[str, Any]:
    """The same file as `/tree` lists it."""
    entry = {"type": "file", "path": sibling["rfilename"], "oid": sibling["blobId"], "size": sibling["size"]}
    if "lfs" in sibling:
        lfs = sibling["lfs"]
        entry["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
    return entry


def _data(value: Any, *, status: int = 200, code: int = 200) -> Answer:
    """An answer in ModelScope's wrapping."""
    good = status == 200
    body = {"Code": code, "Data": value, "Success": good, "Message": "" if good else "record not found"}
    return json_answer(body, status=status)
