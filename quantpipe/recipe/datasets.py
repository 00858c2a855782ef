"""Calibration datasets: read every accepted form, report all problems of a file at once.

Two forms are read:

- ``.json``: a list of strings (the form of calib_data/ and of msmodelslim's own ``*.json`` sets).
- ``.jsonl``: one JSON value a line, a string or an object that has exactly one of `PROMPT_KEYS`. Other keys
  next to it are ignored: msmodelslim's sets have ``id``, ``label`` and the like. Blank lines are skipped.

The checks are stricter than msmodelslim's on purpose. Its loader (26.1.0, FileDatasetLoader and
SafeGenerator.load_jsonl) knows only ``inputs_pretokenized``: for any other object the raw JSON line,
braces and all, silently becomes the calibration text, and items of a list are not checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from quantpipe import durable
from quantpipe.errors import RecipeError, UsageError
from quantpipe.recipe.dataset_text import Entry, Problem, decode, scan_lines, scan_list, type_name

PROMPT_KEYS = ("inputs_pretokenized", "text", "prompt")
MAX_DATASET_BYTES = 256 * 2**20
MAX_DETAILS = 200

_TAKEN = "a .json file is a list of strings; a .jsonl line is a string or an object with one of " + ", ".join(
    PROMPT_KEYS
)
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
_MSMODELSLIM_PATH = re.compile(r"[_A-Za-z0-9/.-]+")


def load_prompts(path: Path, *, min_chars: int = 1, max_bytes: int = MAX_DATASET_BYTES) -> tuple[str, ...]:
    """Read the prompts of a dataset, in the order of the file and unchanged.

    Args:
        path: a ``.json`` or ``.jsonl`` file, as described at the top of this module.
        min_chars: characters a prompt has at least, surrounding whitespace not counted.
        max_bytes: larger files are refused unread.

    Raises:
        RecipeError: the file cannot be read, or has problems; its `details` name all of them by line (the
            first `MAX_DETAILS` of very many).
    """
    entry_scanner = {".json": scan_list, ".jsonl": scan_lines}.get(path.suffix.lower())
    if entry_scanner is None:
        raise RecipeError("a dataset must be a .json or .jsonl file", where=str(path), hint=_TAKEN)
    text, problems = decode(_read(path, max_bytes))
    entries: list[Entry] = []
    if text is not None:
        for found in entry_scanner(text):
            if isinstance(found, Entry):
                entries.append(found)
            else:
                problems.append(found)
    prompts, prompt_problems = _check_entries(entries, min_chars)
    problems += prompt_problems
    if not entries and not problems:
        problems.append(Problem(1, "no prompts" if text and text.strip() else "the file is empty"))
    if problems:
        raise _all_problems(path, sorted(problems, key=lambda problem: problem.line))
    return prompts


def dataset_digest(prompts: Sequence[str]) -> str:
    """SHA-256, in hex, of the prompts and their order: the same for every file form and place.

    Hashed is the JSON list without spaces, with everything outside ASCII escaped.
    """
    canonical = json.dumps(list(prompts), ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def write_msmodelslim_dataset(prompts: Sequence[str], path: Path) -> Path:
    """Write the prompts in the form that msmodelslim V1 reads back unchanged: a ``.json`` list of strings.

    The file appears whole or not at all. The bytes depend on the prompts only.

    Returns:
        The absolute path, for ``spec.dataset`` (msmodelslim looks a bare name up in its own lab_calib).

    Raises:
        UsageError: msmodelslim would reject the path. It accepts ASCII letters, digits, ``_ . - /`` only,
            also after resolving symbolic links, and goes by the extension (its utils/security/path.py).
        ValueError: there are no prompts.
    """
    if not prompts:
        raise ValueError("no prompts to write")
    target = path.absolute()
    if target.suffix != ".json":
        raise UsageError("msmodelslim accepts a list of prompts only from a .json file", where=str(path))
    for seen in (target, target.resolve()):
        if not _MSMODELSLIM_PATH.fullmatch(str(seen)):
            raise UsageError(
                "msmodelslim rejects the path of the calibration dataset",
                where=str(seen),
                hint="put the store under a path of ASCII letters, digits and the characters _ . - /",
            )
    durable.write_json(target, list(prompts))
    return target


def _read(path: Path, max_bytes: int) -> bytes:
    """The bytes of the file, one read, never more than `max_bytes`."""
    where = str(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise RecipeError("the dataset is a directory", where=where, hint="name a file in it")
        if not stat.S_ISREG(mode):
            raise RecipeError("the dataset is not a regular file", where=where, hint=_TAKEN)
        with path.open("rb") as stream:
            # The size is asked before the read, and the read is bounded for a file that grows meanwhile.
            size = os.fstat(stream.fileno()).st_size
            raw = b"" if size > max_bytes else durable.read_at_most(stream, max_bytes + 1)
    except FileNotFoundError as error:
        hint = "check the path in the recipe"
        raise RecipeError("the dataset does not exist", where=where, hint=hint) from error
    except OSError as error:
        raise RecipeError(f"the dataset cannot be read: {error.strerror}", where=where) from error
    if size > max_bytes or len(raw) > max_bytes:
        raise RecipeError(
            f"the dataset is too large: {max(size, len(raw)):,} bytes, at most {max_bytes:,} are read",
            where=where,
            hint="calibration takes tens to hundreds of prompts: keep a sample",
        )
    return raw


def _check_entries(entries: Sequence[Entry], min_chars: int) -> tuple[tuple[str, ...], list[Problem]]:
    """The prompts of all entries, or what is wrong with them one by one and with one another."""
    prompts: list[str] = []
    problems: list[Problem] = []
    first_seen: dict[str, Entry] = {}
    for entry in entries:
        prompt, wrong = _prompt_of(entry)
        if prompt is not None:
            prompts.append(prompt)
            stripped = prompt.strip()
            first = first_seen.setdefault(stripped, entry)
            if stripped and first is not entry:
                wrong = f"the same prompt as {_place(first)}"
            else:
                wrong = _text_problem(stripped, min_chars)
        if wrong is not None:
            what = wrong if entry.item is None else f"item {entry.item}: {wrong}"
            problems.append(Problem(entry.line, what))
    return tuple(prompts), problems


def _prompt_of(entry: Entry) -> tuple[str | None, str | None]:
    """The prompt of an entry, or why it has none."""
    value = entry.value
    if isinstance(value, str):
        return value, None
    if entry.item is not None or not isinstance(value, tuple):
        return None, f"found {type_name(value)}; {_TAKEN}"
    given = [(key, text) for key, text in value if key in PROMPT_KEYS]
    if len(given) != 1:
        keys = ", ".join(repr(key)[:40] for key, _ in (given or value)[:8]) or "none"
        return None, f"an object needs exactly one of the keys {', '.join(PROMPT_KEYS)}; found: {keys}"
    key, text = given[0]
    if not isinstance(text, str):
        return None, f"{key!r} is {type_name(text)}, not a string"
    return text, None


def _text_problem(stripped: str, min_chars: int) -> str | None:
    if not stripped:
        return "empty prompt"
    if len(stripped) < min_chars:
        return f"too short: {len(stripped)} characters, at least {min_chars} required"
    if found := _LONE_SURROGATE.search(stripped):
        return f"half of a surrogate pair (U+{ord(found[0]):04X}), which no tokenizer accepts"
    return None


def _place(entry: Entry) -> str:
    return f"line {entry.line}" if entry.item is None else f"line {entry.line}, item {entry.item}"


def _all_problems(path: Path, problems: Sequence[Problem]) -> RecipeError:
    details = [f"line {line}: {what}" for line, what in problems[:MAX_DETAILS]]
    if len(problems) > MAX_DETAILS:
        details.append(f"and {len(problems) - MAX_DETAILS} more")
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return RecipeError(
        f"the dataset has {count}",
        where=f"{path}, line {problems[0].line}",
        hint="fix these lines and run again",
        details=details,
    )
