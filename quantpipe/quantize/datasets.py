"""Calibration datasets: read every accepted form, report all problems of a file at once.

Two forms are read:

- ``.json``: a list of strings (the form of calib_data/ and of msmodelslim's own ``*.json`` sets).
- ``.jsonl``: one JSON value a line, a string or an object that has exactly one of `PROMPT_KEYS`. Other keys
  beside it are ignored: msmodelslim's sets carry ``id``, ``label`` and the like. Blank lines are skipped.

The checks are stricter than msmodelslim's on purpose. Its loader (26.1.0, FileDatasetLoader and
SafeGenerator.load_jsonl) knows only ``inputs_pretokenized``: for any other object the raw JSON line,
braces and all, becomes the calibration text without a word, and items of a list are not looked at.
"""

from __future__ import annotations

import codecs
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from quantpipe.errors import RecipeError, UsageError

PROMPT_KEYS = ("inputs_pretokenized", "text", "prompt")
MAX_DATASET_BYTES = 256 * 2**20
MAX_DETAILS = 200

_TAKEN = "a .json file is a list of strings; a .jsonl line is a string or an object with one of " + ", ".join(
    PROMPT_KEYS
)
# Objects become tuples of pairs, so that a key given twice is seen; integers become floats, because int()
# refuses more than 4,300 digits with an error of its own.
_DECODER = json.JSONDecoder(object_pairs_hook=tuple, parse_int=float)
_SPACE = re.compile(r"[ \t\n\r]*")
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
_MSMODELSLIM_PATH = re.compile(r"[_A-Za-z0-9/.-]+")


class _Problem(NamedTuple):
    line: int
    what: str


class _Entry(NamedTuple):
    """One JSON value that should hold a prompt; `item` counts from 1 and is None in a .jsonl file."""

    line: int
    item: int | None
    value: object


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
    entry_scanner = {".json": _scan_list, ".jsonl": _scan_lines}.get(path.suffix.lower())
    if entry_scanner is None:
        raise RecipeError("a dataset has to be a .json or .jsonl file", where=str(path), hint=_TAKEN)
    text, problems = _decode(_read(path, max_bytes))
    entries: list[_Entry] = []
    if text is not None:
        for found in entry_scanner(text):
            if isinstance(found, _Entry):
                entries.append(found)
            else:
                problems.append(found)
    prompts, prompt_problems = _check_entries(entries, min_chars)
    problems += prompt_problems
    if not entries and not problems:
        problems.append(_Problem(1, "no prompts" if text and text.strip() else "the file is empty"))
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
        The absolute path: what goes into ``spec.dataset`` (a relative one is looked up in msmodelslim's lab_calib).

    Raises:
        UsageError: msmodelslim would refuse the path. It takes ASCII letters, digits, ``_ . - /`` only, also
            behind symbolic links, and tells the form by the ending (its utils/security/path.py).
        ValueError: there are no prompts.
    """
    if not prompts:
        raise ValueError("no prompts to write")
    target = path.absolute()
    if target.suffix != ".json":
        raise UsageError("msmodelslim takes a list of prompts from a .json file only", where=str(path))
    for seen in (target, target.resolve()):
        if not _MSMODELSLIM_PATH.fullmatch(str(seen)):
            raise UsageError(
                "msmodelslim refuses the path of the calibration dataset",
                where=str(seen),
                hint="put the store under a path of ASCII letters, digits and the characters _ . - /",
            )
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as stream:
            json.dump(list(prompts), stream, ensure_ascii=False, indent=2)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _read(path: Path, max_bytes: int) -> bytes:
    """The bytes of the file, one read, never more than `max_bytes`."""
    where = str(path)
    if path.is_dir():
        raise RecipeError(
            "the dataset is a directory", where=where, hint="name the .json or .jsonl file in it"
        )
    if not path.exists():
        raise RecipeError("the dataset does not exist", where=where, hint="check the path in the recipe")
    if not path.is_file():
        raise RecipeError("the dataset is not a regular file", where=where, hint=_TAKEN)
    try:
        with path.open("rb") as stream:
            # The size is asked before the read, and the read is bounded for a file that grows meanwhile.
            size = os.fstat(stream.fileno()).st_size
            raw = b"" if size > max_bytes else stream.read(max_bytes + 1)
    except OSError as error:
        raise RecipeError(f"the dataset cannot be read: {error.strerror}", where=where) from error
    if size > max_bytes or len(raw) > max_bytes:
        raise RecipeError(
            f"the dataset is too large: {max(size, len(raw)):,} bytes, at most {max_bytes:,} are read",
            where=where,
            hint="calibration takes tens to hundreds of prompts: keep a sample",
        )
    return raw


def _decode(raw: bytes) -> tuple[str | None, list[_Problem]]:
    """The text, and what is wrong with its encoding; None for UTF-16, where no line can be told."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return None, [_Problem(1, "not UTF-8 at byte 0: the byte order mark of UTF-16; save it as UTF-8")]
    problems = []
    if raw.startswith(codecs.BOM_UTF8):
        problems.append(_Problem(1, "byte order mark (BOM) at byte 0: save it as UTF-8 without one"))
        # Spaces keep the offsets of all that follows.
        raw = b"   " + raw[3:]
    try:
        return raw.decode("utf-8"), problems
    except UnicodeDecodeError:
        # A newline byte is never part of a longer UTF-8 sequence: lines can be decoded one by one, and what
        # is wrong with the others is still found.
        return raw.decode("utf-8", "replace"), problems + list(_undecodable_lines(raw))


def _undecodable_lines(raw: bytes) -> Iterator[_Problem]:
    start = 0
    for number, line in enumerate(raw.split(b"\n"), 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            yield _Problem(number, f"not UTF-8 at byte {start + error.start} (0x{line[error.start]:02x})")
        start += len(line) + 1


def _scan_lines(text: str) -> Iterator[_Entry | _Problem]:
    """The value of every line of a .jsonl file that is not blank."""
    if text.lstrip().startswith("["):
        line = 1 + text.count("\n", 0, text.index("["))
        yield _Problem(line, "a list, where each line has to be a value of its own: name a JSON list .json")
        return
    for number, line_text in enumerate(text.split("\n"), 1):
        start = _skip_space(line_text, 0)
        if start == len(line_text):
            continue
        try:
            value, end = _value_at(line_text, start)
            if (rest := _skip_space(line_text, end)) < len(line_text):
                raise json.JSONDecodeError("more than one value in the line", line_text, rest)
        except json.JSONDecodeError as error:
            yield _Problem(number, f"invalid JSON at column {error.colno}: {error.msg}")
        else:
            yield _Entry(number, None, value)


def _scan_list(text: str) -> Iterator[_Entry | _Problem]:
    """The items of a .json list; the first syntax error ends the scan, for nothing after it can be told."""
    start = _skip_space(text, 0)
    if start == len(text):
        return
    try:
        if text[start] == "[":
            yield from _list_items(text, start)
        else:
            line = 1 + text.count("\n", 0, start)
            yield _Problem(line, f"found {_type_name(_value_at(text, start)[0])}, where a list has to be")
    except json.JSONDecodeError as error:
        yield _Problem(error.lineno, f"invalid JSON at column {error.colno}: {error.msg}")


def _list_items(text: str, bracket: int) -> Iterator[_Entry]:
    """Decode the list at offset `bracket` item by item: json.loads() would lose the line of each.

    Raises:
        json.JSONDecodeError: with the offset in the whole text.
    """
    line = 1 + text.count("\n", 0, bracket)
    counted, position = bracket, _skip_space(text, bracket + 1)
    if not text.startswith("]", position):
        for item in itertools.count(1):
            line += text.count("\n", counted, position)
            counted = position
            value, position = _value_at(text, position)
            yield _Entry(line, item, value)
            position = _skip_space(text, position)
            if not text.startswith(",", position):
                break
            position = _skip_space(text, position + 1)
            if text.startswith("]", position):
                raise json.JSONDecodeError("a comma before the closing bracket", text, position)
    if not text.startswith("]", position):
        raise json.JSONDecodeError("a comma or the closing bracket is missing", text, position)
    if (rest := _skip_space(text, position + 1)) < len(text):
        raise json.JSONDecodeError("more text after the list", text, rest)


def _value_at(text: str, start: int) -> tuple[object, int]:
    """The JSON value at an offset, and the offset behind it.

    Raises:
        json.JSONDecodeError: no value there, or one nested too deeply to read.
    """
    try:
        return _DECODER.raw_decode(text, start)
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", text, start) from None


def _skip_space(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    return found.end() if found else start


def _check_entries(entries: Sequence[_Entry], min_chars: int) -> tuple[tuple[str, ...], list[_Problem]]:
    """The prompts of all entries, or what is wrong with them one by one and with one another."""
    prompts: list[str] = []
    problems: list[_Problem] = []
    first_seen: dict[str, _Entry] = {}
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
            problems.append(_Problem(entry.line, what))
    return tuple(prompts), problems


def _prompt_of(entry: _Entry) -> tuple[str | None, str | None]:
    """The prompt of an entry, or why it has none."""
    value = entry.value
    if isinstance(value, str):
        return value, None
    if entry.item is not None or not isinstance(value, tuple):
        return None, f"found {_type_name(value)}; {_TAKEN}"
    given = [(key, text) for key, text in value if key in PROMPT_KEYS]
    if len(given) != 1:
        keys = ", ".join(repr(key) for key, _ in (given or value)[:8]) or "none"
        return None, f"an object needs exactly one of the keys {', '.join(PROMPT_KEYS)}; found: {keys}"
    key, text = given[0]
    if not isinstance(text, str):
        return None, f"{key!r} is {_type_name(text)}, not a string"
    return text, None


def _text_problem(stripped: str, min_chars: int) -> str | None:
    if not stripped:
        return "empty prompt"
    if len(stripped) < min_chars:
        return f"too short: {len(stripped)} characters, at least {min_chars} wanted"
    if found := _LONE_SURROGATE.search(stripped):
        return f"half of a surrogate pair (U+{ord(found[0]):04X}), which no tokenizer takes"
    return None


def _type_name(value: object) -> str:
    """The JSON name of a decoded value's type, with its article."""
    if value is None:
        return "null"
    # bool before float: each JSON number is a float here.
    names = {bool: "a boolean", float: "a number", str: "a string", list: "a list", tuple: "an object"}
    return names[type(value)]


def _place(entry: _Entry) -> str:
    return f"line {entry.line}" if entry.item is None else f"line {entry.line}, item {entry.item}"


def _all_problems(path: Path, problems: Sequence[_Problem]) -> RecipeError:
    details = [f"line {line}: {what}" for line, what in problems[:MAX_DETAILS]]
    if len(problems) > MAX_DETAILS:
        details.append(f"and {len(problems) - MAX_DETAILS} more")
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return RecipeError(
        f"the dataset has {count}",
        where=f"{path}, line {problems[0].line}",
        hint="correct the lines and run again",
        details=details,
    )
