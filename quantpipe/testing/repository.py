"""A repository as the loopback hubs serve it: branches, commits and files."""

from __future__ import annotations

import hashlib
from pathlib import Path

Content = bytes | Path
"""A file's content: bytes, or a file on disk."""


class Repository:
    """A repository with branches, each naming a commit.

    Args:
        files: the content of the first commit, by path: bytes, or a file on disk.
        branch: the branch that names it.
    """

    def __init__(self, files: dict[str, Content], *, branch: str) -> None:
        self.branches: dict[str, str] = {}
        self.commits: dict[str, dict[str, Content]] = {}
        self._hashes: dict[tuple[str, str], tuple[int, str, str]] = {}
        self.commit(files, branch=branch)

    def commit(self, files: dict[str, Content], *, branch: str) -> str:
        """Let `branch` name a new commit with these files; its id."""
        commit = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.branches[branch] = commit
        return commit

    def find(self, revision: str) -> str | None:
        """The commit that a branch or a commit id names."""
        return self.branches.get(revision) or (revision if revision in self.commits else None)

    def facts(self, commit: str, path: str) -> tuple[int, str, str]:
        """Size, SHA-256 and git blob id of a file."""
        if (commit, path) not in self._hashes:
            content = self.commits[commit][path]
            data = content.read_bytes() if isinstance(content, Path) else content
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            self._hashes[commit, path] = (len(data), hashlib.sha256(data).hexdigest(), blob)
        return self._hashes[commit, path]
