"""What a scrub has read and found: the report, which becomes JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from quantpipe.errors import QuantpipeError
from quantpipe.operate.target import File, Kind


@dataclass(frozen=True)
class Difference:
    """Something that is not what its manifest says.

    Attributes:
        subject: what it is about.
        recipe: whose generation it is; None for a snapshot.
        directory: relative to the store.
        file: relative to the directory.
        problem: how it differs.
        action: what was done about it, or what to do.
    """

    subject: Kind
    recipe: str | None
    directory: str
    file: str
    problem: str
    action: str

    def line(self) -> str:
        """For people."""
        return f"{self.directory}/{self.file} {self.problem}"


@dataclass
class Amount:
    """A number of files, and their bytes.

    Attributes:
        files: their number.
        bytes: the sum of their sizes; those of hard links count once.
    """

    files: int = 0
    bytes: int = 0

    def add(self, file: File, names: int = 1) -> None:
        """One more file.

        Args:
            names: hard links to it that are files of other snapshots count as files, and their bytes once.
        """
        self.files += names
        self.bytes += file.size


@dataclass
class ScrubReport:
    """What a scrub has read and found.

    Attributes:
        generations: how many were looked at.
        snapshots: how many were looked at.
        read: what was read and compared.
        left: what the budget did not suffice for.
        recent: what was left out, since it was verified lately.
        differences: what differs from its manifest.
        unread: files that could not be read, by what the storage said.
        seconds: how long it took.
    """

    generations: int = 0
    snapshots: int = 0
    read: Amount = field(default_factory=Amount)
    left: Amount = field(default_factory=Amount)
    recent: Amount = field(default_factory=Amount)
    differences: list[Difference] = field(default_factory=list)
    unread: list[QuantpipeError] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def status(self) -> Literal["clean", "damaged", "unread"]:
        """`clean`, `damaged`, or `unread`: nothing was found, but something could not be read."""
        return "damaged" if self.differences else "unread" if self.unread else "clean"

    @property
    def complete(self) -> bool:
        """Whether nothing was left by the budget, and everything could be read."""
        return not self.left.files and not self.unread

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "status": self.status,
            "complete": self.complete,
            "generations": self.generations,
            "snapshots": self.snapshots,
            "read": asdict(self.read),
            "left": asdict(self.left),
            "recent": asdict(self.recent),
            "seconds": round(self.seconds, 3),
            "differences": [asdict(difference) for difference in self.differences],
            "unread": [error.to_json() for error in self.unread],
        }
