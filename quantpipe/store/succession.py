"""What is odd about a publish, seen from the ones before it: it may be right, and somebody should know.

- Two recipe files of one name that both run on a schedule replace each other's result, run by run. An edited
  recipe does not come back: the recipe that published before the last one is not this one. So A, B, A is
  reported, and A, B, C is not; undoing an edit is reported once.
- A source that is back at a commit of an earlier generation: the branch was moved back, or a mirror serves an
  old state. A recipe that pins this commit wants it, and nothing is reported.

Both come from the history, by moves of the last `LOOK_BACK` publishes that say what they were made from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quantpipe.store.history import History, Move

LOOK_BACK = 20


@dataclass(frozen=True)
class Origin:
    """What a generation was made from.

    Attributes:
        recipe: digest of the recipe.
        source: hub and repository.
        commit: of the source.
        pinned: the recipe itself names the commit.
    """

    recipe: str | None
    source: str | None
    commit: str | None
    pinned: bool = False


def publishes(history: History) -> list[Move]:
    """The last publishes, the oldest first."""
    return [move for move in history.moves(last=LOOK_BACK) if move.action == "publish"]


def oddities(before: Sequence[Move], origin: Origin) -> tuple[str, ...]:
    """A sentence for each thing that is odd about publishing something of this origin now.

    Args:
        before: the publishes before it, the oldest first.
    """
    found = (_takes_turns(before, origin), _went_back(before, origin))
    return tuple(text for text in found if text is not None)


def of_last(history: History) -> tuple[str, ...]:
    """What is odd about the last publish."""
    moves = publishes(history)
    if not moves:
        return ()
    last = moves[-1]
    return oddities(moves[:-1], Origin(last.recipe, last.source, last.commit, last.pinned))


def _takes_turns(before: Sequence[Move], origin: Origin) -> str | None:
    known = [move for move in before if move.recipe is not None]
    mine = [(move.recipe, move.source) == (origin.recipe, origin.source) for move in known]
    if not any(mine) or mine[-1]:
        return None
    last = known[-1]
    return (
        f"two recipes of this name take turns, or an edit was undone: recipe {_short(origin.recipe)} "
        f"for {origin.source} replaces the result of recipe {_short(last.recipe)} for {last.source} "
        f"({_who(last)}), which had replaced its own; if both are wanted, give one of them another name"
    )


def _went_back(before: Sequence[Move], origin: Origin) -> str | None:
    known = [move for move in before if move.commit is not None and move.source == origin.source]
    if origin.pinned or not known or known[-1].commit == origin.commit:
        return None
    earlier = [move for move in known if move.commit == origin.commit]
    if not earlier:
        return None
    return (
        f"the source went back: {origin.source} is at {_short(origin.commit)} again, of which generation "
        f"{_short(earlier[-1].digest)} was made ({_who(earlier[-1])}), after {_short(known[-1].commit)}; "
        "its branch was moved back, or a mirror serves an old state; name the commit in `source.revision` "
        "if it is meant"
    )


def _who(move: Move) -> str:
    return f"published {move.time} by {move.user} on {move.host}" + (f", run {move.run}" if move.run else "")


def _short(digest: str | None) -> str:
    return (digest or "?")[:12]
