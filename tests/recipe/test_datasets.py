from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantpipe.errors import RecipeError, UsageError
from quantpipe.recipe.datasets import (
    MAX_DATASET_BYTES,
    MAX_DETAILS,
    dataset_digest,
    load_prompts,
    write_msmodelslim_dataset,
)

Write = Callable[[str, str | bytes], Path]
REPOSITORY = Path(__file__).parents[2]
QUANTIZE_PYTHON = Path(
    os.environ.get("QUANTPIPE_QUANTIZE_PYTHON") or REPOSITORY / ".venv-quantize" / "bin" / "python"
)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def _write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        return path

    return _write


def refusal(path: Path, **kwargs: int) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        load_prompts(path, **kwargs)
    return caught.value


class TestAcceptedForms:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("a.json", '["first", "zweite \\u00fc"]'),
            ("a.json", '\n[\r\n"first"\n,\n"zweite ü"]\n\n'),
            ("a.JSON", '["first","zweite ü"]'),
            ("a.jsonl", '{"inputs_pretokenized": "first"}\n{"inputs_pretokenized": "zweite ü"}\n'),
            ("a.jsonl", '{"text": "first"}\n{"text": "zweite ü"}'),
            ("a.jsonl", '{"prompt": "first"}\r\n{"prompt": "zweite ü"}\r\n'),
            ("a.jsonl", '"first"\n"zweite ü"\n'),
            ("a.jsonl", '\n"first"\n  \n{"id": 7, "label": [], "text": "zweite ü"}\n\n'),
        ],
    )
    def test_same_prompts_from_every_form(self, write: Write, name: str, content: str) -> None:
        assert load_prompts(write(name, content)) == ("first", "zweite ü")

    def test_prompts_are_not_stripped(self, write: Write) -> None:
        assert load_prompts(write("a.json", '["  code:\\n\\tx\\n"]')) == ("  code:\n\tx\n",)

    def test_line_separators_inside_a_string_do_not_split_a_line(self, write: Write) -> None:
        assert load_prompts(write("a.jsonl", '"a\u2028b\u0085c"\n')) == ("a\u2028b\u0085c",)

    def test_surrogate_pair_is_one_character(self, write: Write) -> None:
        assert load_prompts(write("a.json", '["\\ud83d\\ude00"]')) == ("\U0001f600",)

    def test_order_is_that_of_the_file(self, write: Write) -> None:
        assert load_prompts(write("a.json", '["b", "a", "c"]')) == ("b", "a", "c")


class TestProblemsByLine:
    @pytest.mark.parametrize(
        ("name", "content", "line", "says"),
        [
            ("a.json", "", 1, "the file is empty"),
            ("a.jsonl", "\n \n", 1, "the file is empty"),
            ("a.json", "[ ]", 1, "no prompts"),
            ("a.json", '["x",\n"", "y"]', 2, "item 2: empty prompt"),
            ("a.jsonl", '"x"\n\n{"text": " \\t\\u3000"}', 3, "empty prompt"),
            ("a.json", '["x",\n\n3]', 3, "item 2: found a number"),
            ("a.json", '["x",\n{"text": "y"}]', 2, "item 2: found an object"),
            ("a.json", '["x", null]', 1, "item 2: found null"),
            ("a.json", '\n{"text": "x"}', 2, "found an object, expected a list"),
            ("a.json", '"x"', 1, "found a string, expected a list"),
            ("a.jsonl", '"x"\ntrue', 2, "found a boolean"),
            ("a.jsonl", '"x"\n["y"]', 2, "found a list"),
            ("a.jsonl", '"x"\n{"text": ["y"]}', 2, "'text' is a list, not a string"),
            ("a.jsonl", '"x"\n{"text": 1e3}', 2, "'text' is a number, not a string"),
            ("a.jsonl", '\n["x",\n"y"]', 2, "give a JSON list the extension .json"),
            ("a.json", '["x",\n  oops]', 2, "invalid JSON at column 3: Expecting value"),
            ("a.json", '["x"\n"y"]', 2, "invalid JSON at column 1: missing comma or closing bracket"),
            ("a.json", '["x",\n"y",\n ]', 3, "invalid JSON at column 2: comma before the closing bracket"),
            ("a.json", '["x"]\n["y"]', 2, "invalid JSON at column 1: extra text after the list"),
            ("a.json", '["x",\n"y', 2, "invalid JSON at column 1: Unterminated string"),
            ("a.json", '["x",\n "two\nlines"]', 2, "invalid JSON at column 6: Invalid control character"),
            ("a.json", "[", 1, "invalid JSON at column 2: Expecting value"),
            ("a.json", "[" * 200_000, 1, "nested too deeply"),
            ("a.json", f'["x",\n{"9" * 5000}]', 2, "item 2: found a number"),
            ("a.jsonl", '"x"\n{"text": y}', 2, "invalid JSON at column 10: Expecting value"),
            ("a.jsonl", '"x"\n "y" "z"', 2, "invalid JSON at column 6: more than one value"),
            ("a.json", '["x",\n"\\ud800"]', 2, "item 2: half of a surrogate pair (U+D800)"),
            ("a.json", b'["x",\n"caf\xe9"]', 2, "not UTF-8 at byte 10 (0xe9)"),
            ("a.jsonl", b'"x"\n"\xb5\xe7"\n"y"', 2, "not UTF-8 at byte 5 (0xb5)"),
            ("a.json", b'\xef\xbb\xbf["x"]', 1, "byte order mark (BOM) at byte 0"),
            ("a.json", '["x"]'.encode("utf-16"), 1, "byte order mark of UTF-16"),
        ],
    )
    def test_one_problem(self, write: Write, name: str, content: str | bytes, line: int, says: str) -> None:
        path = write(name, content)
        error = refusal(path)
        assert len(error.details) == 1, error.details
        assert error.details[0].startswith(f"line {line}: ")
        assert says in error.details[0]
        assert error.what == "the dataset has 1 problem"
        assert error.where == f"{path}, line {line}"
        assert error.hint

    def test_unknown_keys_name_the_three_that_are_taken(self, write: Write) -> None:
        [detail] = refusal(write("a.jsonl", '"x"\n{"content": "y", "role": "user"}')).details
        assert detail.startswith("line 2: ")
        for key in ("inputs_pretokenized", "text", "prompt", "'content'", "'role'"):
            assert key in detail

    @pytest.mark.parametrize("line", ['{"text": "x", "prompt": "y"}', '{"text": "x", "text": "y"}', "{}"])
    def test_object_without_exactly_one_prompt(self, write: Write, line: str) -> None:
        [detail] = refusal(write("a.jsonl", line)).details
        assert detail.startswith("line 1: an object needs exactly one of the keys")

    def test_too_short_does_not_count_surrounding_space(self, write: Write) -> None:
        path = write("a.json", '["long enough",\n"  abc  "]')
        assert refusal(path, min_chars=4).details == (
            "line 2: item 2: too short: 3 characters, at least 4 required",
        )
        assert load_prompts(path, min_chars=3) == ("long enough", "  abc  ")

    def test_duplicates_name_both_lines(self, write: Write) -> None:
        in_list = refusal(write("a.json", '["x",\n"y",\n"x",\n\n" x\\n"]'))
        assert in_list.details == (
            "line 3: item 3: the same prompt as line 1, item 1",
            "line 5: item 4: the same prompt as line 1, item 1",
        )
        in_lines = refusal(write("a.jsonl", '"x"\n\n{"text": "x"}'))
        assert in_lines.details == ("line 3: the same prompt as line 1",)

    def test_all_problems_of_a_file_in_the_order_of_its_lines(self, write: Write) -> None:
        content = (
            b'\xef\xbb\xbf{"text": "one"}\n{"tekst": "two"}\n"caf\xe9"\n{broken\n""\n{"prompt": "one"}\n42\n'
        )
        error = refusal(write("a.jsonl", content))
        lines = [int(detail.split(":")[0].removeprefix("line ")) for detail in error.details]
        assert lines == [1, 2, 3, 4, 5, 6, 7]
        assert error.what == "the dataset has 7 problems"

    def test_items_before_a_syntax_error_are_checked_too(self, write: Write) -> None:
        error = refusal(write("a.json", '["",\n1,\n?]'))
        assert [detail.split(":")[0] for detail in error.details] == ["line 1", "line 2", "line 3"]

    def test_very_many_problems_are_cut_and_counted(self, write: Write) -> None:
        error = refusal(write("a.jsonl", "0\n" * (MAX_DETAILS + 5)))
        assert len(error.details) == MAX_DETAILS + 1
        assert error.details[-1] == "and 5 more"


class TestFilesThatCannotBeRead:
    def test_missing(self, tmp_path: Path) -> None:
        error = refusal(tmp_path / "none.json")
        assert error.what == "the dataset does not exist"
        assert str(tmp_path / "none.json") in str(error)

    def test_directory(self, tmp_path: Path) -> None:
        (tmp_path / "d.json").mkdir()
        assert refusal(tmp_path / "d.json").what == "the dataset is a directory"

    def test_named_pipe_is_refused_and_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "p.json")
        assert refusal(tmp_path / "p.json").what == "the dataset is not a regular file"

    def test_other_os_errors_say_why(self, write: Write) -> None:
        path = write("a.json", '["x"]')
        assert "Not a directory" in refusal(path / "b.json").what

    def test_ending(self, write: Write) -> None:
        error = refusal(write("a.txt", '["x"]'))
        assert "must be a .json or .jsonl file" in error.what

    def test_huge_file_is_refused_unread(self, tmp_path: Path) -> None:
        path = tmp_path / "huge.json"
        with path.open("wb") as stream:
            stream.truncate(MAX_DATASET_BYTES + 1)
        assert "too large: 268,435,457 bytes, at most 268,435,456" in refusal(path).what

    def test_bound_is_inclusive(self, write: Write) -> None:
        path = write("a.json", '["x"]')
        assert load_prompts(path, max_bytes=5) == ("x",)
        assert "too large" in refusal(path, max_bytes=4).what


class TestDigest:
    def test_is_sha256_of_the_canonical_list(self) -> None:
        expected = hashlib.sha256(b'["a","\\u00fc \\"q\\""]').hexdigest()
        assert dataset_digest(("a", 'ü "q"')) == expected

    def test_ignores_path_and_form(self, write: Write) -> None:
        first = write("a.json", '[\n  "x", "ü"]')
        second = write("b.jsonl", '{"text": "x"}\n"\\u00fc"\n')
        assert dataset_digest(load_prompts(first)) == dataset_digest(list(load_prompts(second)))

    def test_changes_with_content_order_and_grouping(self) -> None:
        digests = {
            dataset_digest(p) for p in (["a", "b"], ["b", "a"], ["a", "c"], ["ab"], ["a", "b "], ["a"])
        }
        assert len(digests) == 6


PROMPTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip),
    min_size=1,
    max_size=8,
    unique_by=str.strip,
)


@settings(deadline=None, max_examples=60)
@given(PROMPTS)
def test_round_trip_through_every_form(tmp_path_factory: pytest.TempPathFactory, prompts: list[str]) -> None:
    directory = tmp_path_factory.mktemp("round")
    listed = write_msmodelslim_dataset(prompts, directory / "a.json")
    assert load_prompts(listed) == tuple(prompts)
    for key in ("inputs_pretokenized", "text", "prompt"):
        lines = directory / f"{key}.jsonl"
        lines.write_text(
            "".join(json.dumps({key: p}, ensure_ascii=False) + "\n" for p in prompts),
            encoding="utf-8",
            newline="\n",
        )
        assert load_prompts(lines) == tuple(prompts)


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=60) | st.text('[]{}",:\\ntext1 \n', max_size=40).map(str.encode))
def test_any_bytes_give_prompts_or_a_recipe_error(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes
) -> None:
    for name in ("a.json", "a.jsonl"):
        path = tmp_path_factory.mktemp("fuzz") / name
        path.write_bytes(raw)
        try:
            prompts = load_prompts(path)
        except RecipeError as error:
            assert error.details
        else:
            assert prompts
            assert all(prompt.strip() for prompt in prompts)


class TestWriteForMsmodelslim:
    def test_bytes_depend_on_the_prompts_only(self, tmp_path: Path) -> None:
        first = write_msmodelslim_dataset(["α", "b\n"], tmp_path / "a.json")
        second = write_msmodelslim_dataset(("α", "b\n"), tmp_path / "b.json")
        assert first.read_bytes() == second.read_bytes() == '[\n  "α",\n  "b\\n"\n]\n'.encode()

    def test_returns_an_absolute_path_and_leaves_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert write_msmodelslim_dataset(["x"], Path("a.json")) == tmp_path / "a.json"
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]

    def test_a_failed_write_keeps_the_old_file(self, tmp_path: Path) -> None:
        path = write_msmodelslim_dataset(["old"], tmp_path / "a.json")
        with pytest.raises(UnicodeEncodeError):
            write_msmodelslim_dataset(["new", "\ud800"], path)
        assert load_prompts(path) == ("old",)
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]

    @pytest.mark.parametrize("name", ["a b.json", "模型.json", "a@1.json"])
    def test_path_that_msmodelslim_refuses(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(UsageError, match="msmodelslim rejects the path"):
            write_msmodelslim_dataset(["x"], tmp_path / name)

    def test_path_behind_a_link_is_seen(self, tmp_path: Path) -> None:
        (tmp_path / "a b").mkdir()
        (tmp_path / "link").symlink_to("a b")
        with pytest.raises(UsageError, match="msmodelslim rejects the path"):
            write_msmodelslim_dataset(["x"], tmp_path / "link" / "a.json")

    def test_other_endings_and_no_prompts(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"only from a \.json file"):
            write_msmodelslim_dataset(["x"], tmp_path / "a.jsonl")
        with pytest.raises(ValueError, match="no prompts"):
            write_msmodelslim_dataset([], tmp_path / "a.json")


READ_BACK = """
import json, pathlib, sys
from msmodelslim.infra.file_dataset_loader import FileDatasetLoader
loader = FileDatasetLoader(pathlib.Path("/nonexistent"))
print("READ " + json.dumps([loader.get_dataset_by_name(name) for name in sys.argv[1:]]))
"""


def read_with_msmodelslim(*paths: Path) -> list[list[str]]:
    done = subprocess.run(
        [str(QUANTIZE_PYTHON), "-c", READ_BACK, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=300,
        env={"PATH": "/usr/bin:/bin", "HOME": str(paths[0].parent), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    [line] = [line for line in done.stdout.splitlines() if line.startswith("READ ")]
    result: list[list[str]] = json.loads(line.removeprefix("READ "))
    return result


@pytest.mark.quantize_env
@pytest.mark.skipif(not QUANTIZE_PYTHON.exists(), reason="no .venv-quantize")
def test_msmodelslim_reads_back_what_was_written(tmp_path: Path, write: Write) -> None:
    prompts = [
        "plain",
        "中文，标点。",
        'quotes " and \\ and {"json": 1}',
        "lines\n\ttab\u2028sep \U0001f600",
        "  spaces  ",
    ]
    written = write_msmodelslim_dataset(prompts, tmp_path / "calib.json")
    theirs = write("theirs.jsonl", '{"id": 1, "inputs_pretokenized": "甲"}\n{"inputs_pretokenized": "b"}\n')
    from_json, from_jsonl = read_with_msmodelslim(written, theirs)
    assert from_json == prompts
    assert tuple(from_jsonl) == load_prompts(theirs)
