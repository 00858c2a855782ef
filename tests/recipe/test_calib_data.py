"""The shipped calibration sets are what calib_data/README.md says they are."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

from quantpipe.recipe.datasets import dataset_digest, load_prompts

CALIB_DATA = Path(__file__).parents[2] / "calib_data"
NAMES = ("anti_outlier", "calibration")
HELD_OUT = "held_out"
BLOCK = 10  # five English prompts, then five Chinese ones: one per topic each
LONGEST_SHARED_SENTENCE = 40


def prompts_of(name: str) -> tuple[str, ...]:
    return load_prompts(CALIB_DATA / f"{name}.json", min_chars=200)


def cjk_share(text: str) -> float:
    """Han characters as a share of all letters (Han and ASCII)."""
    han = len(re.findall(r"[\u3400-\u9fff]", text))
    return han / (han + len(re.findall(r"[A-Za-z]", text)))


def sentences(text: str) -> set[str]:
    parts = re.split(r"(?<=[.!?])\s+|[。！？；\n|]+", text)
    return {part for raw in parts if len(part := " ".join(raw.split())) > LONGEST_SHARED_SENTENCE}


@pytest.mark.parametrize("name", NAMES)
class TestEachSet:
    def test_fifty_prompts_without_duplicates(self, name: str) -> None:
        assert len(set(prompts_of(name))) == 50

    def test_lengths_are_in_range_and_spread(self, name: str) -> None:
        lengths = sorted(len(prompt) for prompt in prompts_of(name))
        assert lengths[0] >= 200
        assert lengths[-1] <= 3000
        assert lengths[9] < 360, "a fifth is short"
        assert 500 < lengths[25] < 1000, "the median is in the middle"
        assert sum(length >= 1500 for length in lengths) >= 7, "several are long"

    def test_languages_alternate_in_blocks_of_five(self, name: str) -> None:
        for index, prompt in enumerate(prompts_of(name)):
            chinese = index % BLOCK >= BLOCK // 2
            share = cjk_share(prompt)
            assert share > 0.25 if chinese else share < 0.01, (index, share, prompt[:60])

    def test_every_prefix_of_whole_blocks_has_code_in_both_languages(self, name: str) -> None:
        fenced = re.compile(r"```|^#!/|SELECT |git |gzip|re`|Python 3|CREATE TABLE", re.MULTILINE)
        prompts = prompts_of(name)
        for start in range(0, 50, BLOCK):
            assert fenced.search(prompts[start + 1]), prompts[start + 1][:80]
            assert fenced.search(prompts[start + 6]), prompts[start + 6][:80]

    def test_file_is_plain_utf8_with_one_prompt_a_line(self, name: str) -> None:
        raw = (CALIB_DATA / f"{name}.json").read_bytes()
        text = raw.decode("utf-8")
        lines = text.split("\n")
        assert (lines[0], lines[-2], lines[-1], len(lines)) == ("[", "]", "", 53)
        assert tuple(json.loads(line.rstrip(",")) for line in lines[1:-2]) == prompts_of(name)
        assert "\\u" not in text, "nothing is escaped that UTF-8 can hold"
        assert "\ufffd" not in text, "no character was lost on the way"

    def test_openings_are_all_different(self, name: str) -> None:
        """Prompts made from one template would start alike."""
        assert len({prompt[:16] for prompt in prompts_of(name)}) == 50


def test_no_two_sets_share_a_sentence() -> None:
    found = {name: set().union(*map(sentences, prompts_of(name))) for name in (*NAMES, HELD_OUT)}
    assert all(len(found[name]) > 200 for name in NAMES)
    assert len(found[HELD_OUT]) > 30
    for first, second in itertools.combinations(found.values(), 2):
        assert first & second == set()


def test_the_held_out_set_is_in_two_languages_and_varied() -> None:
    prompts = prompts_of(HELD_OUT)
    assert len({prompt[:16] for prompt in prompts}) == len(prompts) == 16
    assert all(200 <= len(prompt) <= 1100 for prompt in prompts)
    for index, prompt in enumerate(prompts):
        share = cjk_share(prompt)
        assert share > 0.2 if index % 2 else share < 0.01, (index, share, prompt[:60])
    for half in (prompts[::2], prompts[1::2]):
        assert any("```" in prompt for prompt in half)


def test_no_sentence_is_used_twice_within_a_set() -> None:
    for name in (*NAMES, HELD_OUT):
        seen: set[str] = set()
        for prompt in prompts_of(name):
            assert not seen & sentences(prompt), prompt[:80]
            seen |= sentences(prompt)


def test_readme_gives_the_digests() -> None:
    readme = (CALIB_DATA / "README.md").read_text(encoding="utf-8")
    for name in (*NAMES, HELD_OUT):
        assert dataset_digest(prompts_of(name)) in readme
