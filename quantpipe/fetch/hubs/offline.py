"""Without a network: the store records the commit of each revision, and a complete snapshot is enough."""

from __future__ import annotations

from pathlib import Path

from quantpipe import durable
from quantpipe.checkpoint.strict_json import MAX_JSON_BYTES, load_object
from quantpipe.errors import PreflightError
from quantpipe.fetch.hub import RemoteFile, Sink
from quantpipe.fetch.snapshot import Snapshot

_REFS = "refs.json"
_DEFAULT = "(default)"


class OfflineHub:
    """Answers for a hub from the store; `quantpipe.fetch.hub.Hub`.

    Args:
        name: the hub's name.
        folder: `<store>/sources/<hub>/<owner>--<name>`.
    """

    parallel = 1

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._folder = folder

    def describe(self, repo: str) -> str:
        """The repository, and that the hub is not contacted."""
        return f"{repo} on {self.name} (offline)"

    def folder(self, repo: str) -> str:
        """The repository's name as it is."""
        return repo

    def resolve(self, repo: str, revision: str | None) -> str:
        """The commit of the revision when it was last fetched."""
        commit = read_refs(self._folder).get(revision or _DEFAULT)
        if commit is None and revision and self._snapshots(revision):
            commit = revision
        if commit is None:
            raise self._refusal(
                f"this store has no snapshot of {repo} at {revision or 'its default revision'}"
            )
        return commit

    def list(self, repo: str, commit: str) -> tuple[RemoteFile, ...]:
        """The files of the stored source manifest."""
        for snapshot in self._snapshots(commit):
            return snapshot.files()
        raise self._refusal(f"this store has no snapshot of {repo} at {commit}")

    def read(self, repo: str, commit: str, path: str) -> bytes:
        """The content of a file that was fetched."""
        for snapshot in self._snapshots(commit):
            if (snapshot.path / path).is_file():
                return durable.read_bytes(snapshot.path / path, most=MAX_JSON_BYTES)
        raise self._refusal(f"{path} was not fetched")

    def fetch(self, repo: str, commit: str, file: RemoteFile, sink: Sink) -> None:
        """Nothing can be fetched."""
        raise self._refusal(f"{file.path} is missing from the snapshot")

    def close(self) -> None:
        """Nothing is open."""

    def _snapshots(self, commit: str) -> tuple[Snapshot, ...]:
        found = (Snapshot(path) for path in sorted(self._folder.glob(f"{commit}*")))
        return tuple(snapshot for snapshot in found if snapshot.manifest_path.is_file())

    def _refusal(self, what: str) -> PreflightError:
        return PreflightError(
            f"offline mode is on, and {what}",
            where=str(self._folder),
            hint="unset HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) for one run to fetch it",
        )


def read_refs(folder: Path) -> dict[str, str]:
    """Revision to commit, as last resolved; empty if there is none."""
    try:
        value = load_object(folder / _REFS)
        return {str(revision): str(commit) for revision, commit in value.items()}
    except (FileNotFoundError, ValueError):
        return {}


def remember(folder: Path, revision: str | None, commit: str) -> None:
    """Record the commit that a revision was resolved to."""
    refs = read_refs(folder)
    if refs.get(revision or _DEFAULT) != commit:
        folder.mkdir(parents=True, exist_ok=True)
        durable.write_json(folder / _REFS, {**refs, revision or _DEFAULT: commit})
