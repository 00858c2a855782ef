"""Read generations and snapshots again, and compare them with their manifests: bits rot at rest.

What was verified longest ago is read first, and of equals what servers follow, so that scrubs with a budget
go round: each continues where the one before ended. Nothing is locked. Readers are not disturbed, and what
retention removes meanwhile is passed over.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import NamedTuple

from quantpipe.console import Console
from quantpipe.digest import OnBytes
from quantpipe.errors import QuantpipeError, RetryableError
from quantpipe.fetch.parallel import each
from quantpipe.operate.budget import Budget
from quantpipe.operate.report import Difference, ScrubReport
from quantpipe.operate.target import File, Shared, Target, is_mode
from quantpipe.operate.targets import targets
from quantpipe.store.damaged import marked
from quantpipe.store.faults import storage_error, storage_faults
from quantpipe.store.manifest import Mismatch
from quantpipe.store.store import Store

SAVE_SECONDS = 1.0
"""Times are kept this often: a kill loses those of the files read since, and of those in progress."""


class _Item(NamedTuple):
    """A file to read, and the hard links to it: their content is its."""

    target: Target
    file: File
    links: tuple[_Item, ...] = ()

    @property
    def names(self) -> int:
        """How many files it is."""
        return 1 + len(self.links)

    def held(self) -> tuple[_Item, ...]:
        """The links that are still links to what was read: a run may have replaced them meanwhile."""
        if not self.links or self.target.shared(self.file.path) != self.file.shared:
            return ()
        return tuple(link for link in self.links if link.target.shared(link.file.path) == link.file.shared)

    def sort_key(self) -> tuple[float, bool, bool, str, str]:
        """What was verified longest ago first; then what is current, generations, and by name."""
        target = self.target
        return (
            self.file.last or 0.0,
            not target.current,
            target.kind != "generation",
            str(target.path),
            self.file.path,
        )


class _Read(NamedTuple):
    """The result of one file: when its reading began, None where the time was up; what was wrong."""

    item: _Item
    began: float | None
    wrong: Mismatch | None = None
    error: QuantpipeError | None = None


def scrub(
    store: Store,
    console: Console,
    *,
    recipes: Sequence[str] | None = None,
    budget: Budget | None = None,
    older_than: float = 0.0,
    jobs: int = 1,
) -> ScrubReport:
    """Read what is due, keep when it was found right, mark what is damaged.

    Args:
        recipes: only their generations and snapshots; None for all of the store.
        older_than: leave out what was verified in the last so many seconds.
        jobs: files read at a time.

    Raises:
        QuantpipeError: the store cannot be read or written at all.
    """
    with storage_faults(store.root):
        return _Scrub(store, console, budget or Budget()).run(recipes, older_than, jobs)


class _Scrub:
    def __init__(self, store: Store, console: Console, budget: Budget) -> None:
        self._store, self._console, self._budget = store, console, budget
        self._report = ScrubReport()
        self._found: dict[int, list[Mismatch]] = {}
        self._read: dict[int, list[str]] = {}
        self._clock, self._monotonic = store.clock(), time.monotonic()
        self._saved = self._monotonic

    def run(self, recipes: Sequence[str] | None, older_than: float, jobs: int) -> ScrubReport:
        every = list(targets(self._store, recipes))
        for target in every:
            self._begin(target)
        due = self._due(every, older_than)
        total, in_time = sum(item.file.size for item in due), self._in_time(due)
        try:
            with (
                self._console.progress("scrub", total, unit="B") as bar,
                contextlib.closing(each(self._one, in_time, jobs=jobs, on_bytes=bar.advance)) as results,
            ):
                for result in results:
                    self._take(result)
        finally:
            self._save(every)
        for target in every:
            self._conclude(target)
        self._report.seconds = time.monotonic() - self._monotonic
        return self._report

    def _begin(self, target: Target) -> None:
        if target.kind == "generation":
            self._report.generations += 1
        else:
            self._report.snapshots += 1
        if found := target.glance():
            self._damaged(target, found)

    def _due(self, every: Sequence[Target], older_than: float) -> list[_Item]:
        """What to read, in order, as far as the bytes of the budget suffice."""
        items = _once([_Item(target, file) for target in every for file in target.files()])
        due: list[_Item] = []
        limit, size = self._budget.bytes, 0
        for item in sorted(items, key=_Item.sort_key):
            last = item.file.last
            if older_than and last is not None and last > self._clock - older_than:
                self._report.recent.add(item.file, item.names)
                continue
            size += item.file.size
            if limit is not None and size > limit and due:
                self._report.left.add(item.file, item.names)
            else:
                due.append(item)
        return due

    def _in_time(self, due: Iterable[_Item]) -> Iterator[_Item]:
        """Those that come up before the time is up; no thread is asked for the others."""
        for item in due:
            if self._late():
                self._report.left.add(item.file, item.names)
            else:
                yield item

    def _late(self) -> bool:
        seconds = self._budget.seconds
        return seconds is not None and time.monotonic() - self._monotonic > seconds

    def _one(self, item: _Item, count: OnBytes) -> _Read:
        """Read one file; called from a thread."""
        if self._late():
            return _Read(item, None)
        began = self._clock + time.monotonic() - self._monotonic
        try:
            return _Read(item, began, item.target.check(item.file.path, count))
        except RetryableError as error:
            return _Read(item, began, error=error)
        except OSError as error:
            explained = storage_error(error, item.target.path / item.file.path)
            if explained is None:
                raise
            return _Read(item, began, error=explained)

    def _take(self, result: _Read) -> None:
        item, target, file = result.item, result.item.target, result.item.file
        if result.began is None:
            self._report.left.add(file, item.names)
        elif (result.wrong is not None or result.error is not None) and not target.same():
            return  # removed or replaced while it was read
        elif result.error is not None:
            self._report.unread.append(result.error)
            self._console.warning(f"cannot be read: {result.error}")
        else:
            held = item.held()
            self._report.read.add(file, 1 + len(held))
            for each_item in (item, *held):
                self._credit(each_item, result.began, result.wrong)
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self._save([target])

    def _credit(self, item: _Item, began: float, wrong: Mismatch | None) -> None:
        """A file was found right or wrong, by reading it or a hard link to it."""
        if wrong is not None:
            self._damaged(item.target, [replace(wrong, path=item.file.path)])
        else:
            item.target.verified.set(item.file.path, began)
            self._read.setdefault(id(item.target), []).append(item.file.path)

    def _damaged(self, target: Target, found: Sequence[Mismatch]) -> None:
        """Say it first, and then record it: should that fail, it has been said."""
        if not target.same():
            return
        self._found.setdefault(id(target), []).extend(found)
        for mismatch in found:
            difference = self._difference(target, mismatch)
            self._report.differences.append(difference)
            self._console.event("difference", **asdict(difference))
            self._console.line(f"damaged: {difference.line()}")
        target.damaged(found)

    def _difference(self, target: Target, mismatch: Mismatch) -> Difference:
        directory = self._store.relative(target.path)
        if is_mode(mismatch):
            action = f"chmod {mismatch.problem.rpartition(' ')[2]} it; its content is not affected"
        elif target.kind == "snapshot":
            action = "the next run fetches it again"
        elif target.current:
            action = "marked: the next run makes the checkpoint again and replaces it"
        else:
            action = (
                "marked: a rollback passes it over, the next publish or `quantpipe prune --yes` removes it"
            )
        return Difference(target.kind, target.recipe, directory, mismatch.path, mismatch.problem, action)

    def _conclude(self, target: Target) -> None:
        """An intact generation loses its mark; one that stays marked counts as damaged, even if unread."""
        if id(target) in self._found or not target.same():
            return
        target.intact(self._read.get(id(target), ()))
        if target.kind == "generation" and (left := marked(target.path)):
            self._report.differences += [self._difference(target, mismatch) for mismatch in left]

    def _save(self, every: Sequence[Target]) -> None:
        for target in every:
            if target.same():
                target.verified.save()
        self._saved = time.monotonic()


def _once(items: Sequence[_Item]) -> Iterator[_Item]:
    """Each content once: of hard links the one that is due first, with the others beside it."""
    shared: dict[Shared, list[_Item]] = {}
    for item in items:
        if item.file.shared is None:
            yield item
        else:
            shared.setdefault(item.file.shared, []).append(item)
    for links in shared.values():
        first, *others = sorted(links, key=_Item.sort_key)
        yield first._replace(links=tuple(others))
