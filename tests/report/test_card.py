"""The model card: metadata that hubs read, facts that do not change, texts that stay texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.golden import ASSET, NAME, golden_store
from helpers.reports import quality
from huggingface_hub import ModelCard

from quantpipe.report.card import card
from quantpipe.stage import Context, Receipts
from quantpipe.store.quality import Quality
from quantpipe.verify.finding import Finding, Severity
from quantpipe.verify.report import Report

FOUND = Finding("B9", Severity.WARNING, "a | strange <b>value</b>", ("lm_head",), 1, "", "effect", "fix")
REPORT = Report(
    Path("x"),
    "0.23.0",
    (FOUND,),
    ("A1", "A2"),
    {"B13": "the BF16 source (--against)"},
    {"tensors": 294, "types": {"W8A8": 12, "W8A8_DYNAMIC": 72}},
)


def quantized(run: Context, found: Quality | None) -> Context:
    """The run as verify sees it, with these figures of quality."""
    outputs = replace(run.receipts.quantize.outputs, quality=found)
    receipts = Receipts.of(run.receipts.fetch, replace(run.receipts.quantize, outputs=outputs))
    return replace(run, receipts=receipts)


@pytest.fixture
def context(finished_run: Context) -> Context:
    return quantized(finished_run, quality())


def from_hub(context: Context, repo: str = "Qwen/Qwen3-235B-A22B", hub: str = "huggingface") -> Context:
    source = context.recipe.source.model_copy(update={"hub": hub, "repo": repo})
    return replace(context, recipe=context.recipe.model_copy(update={"source": source}))


def made(context: Context) -> ModelCard:
    """As Hugging Face's own library reads it."""
    return ModelCard(card(context, ASSET, REPORT))


def metadata(context: Context) -> dict[str, Any]:
    found: dict[str, Any] = made(context).data.to_dict()  # type: ignore[no-untyped-call]
    return found


def source_says(context: Context, text: str, name: str = "README.md") -> None:
    (context.store.absolute(context.fetch.snapshot) / name).write_text(text, "utf-8")


def test_the_metadata_of_a_model_from_a_hub(context: Context) -> None:
    source_says(
        context, "---\nlicense: apache-2.0\nlanguage:\n- en\n- zh\npipeline_tag: text-generation\n---\n# Qwen"
    )
    found = metadata(from_hub(context))
    tags = found.pop("tags")
    assert found == {
        "base_model": "Qwen/Qwen3-235B-A22B",
        "base_model_relation": "quantized",
        "license": "apache-2.0",
        "language": ["en", "zh"],
        "library_name": "vllm",
        "pipeline_tag": "text-generation",
    }
    assert {"w8a8", "ascend", "quarot"} <= set(tags)


def test_a_local_source_is_named_without_its_path(context: Context) -> None:
    text = card(context, ASSET, REPORT)
    assert "base_model:" not in text and "`tiny-qwen3-moe`" in text
    assert str(ASSET) not in text and str(context.store.root) not in text


def test_the_facts(context: Context) -> None:
    text = made(from_hub(context)).text
    for said in (
        f"# {NAME}",
        "[Qwen/Qwen3-235B-A22B](<https://huggingface.co/Qwen/Qwen3-235B-A22B>)",
        "`95bcdfe21e5a`",
        "1.8 MiB of BF16 weights became 1.3 MiB",
        "vllm serve path/to/this/folder",
        "72 W8A8\\_DYNAMIC, 12 W8A8",
        "| Mean KL divergence | 0.0187 |",
        "2 static checks passed (1 warning)",
        "a \\| strange &lt;b&gt;value&lt;/b&gt;",
        "B13 needs the BF16 source",
        "msmodelslim 26.1.0",
        "rotate: true",
    ):
        assert said in text, said


def test_it_says_the_same_every_time_and_everywhere(context: Context, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    other = replace(context, store=golden_store(elsewhere), run=context.store.new_run(NAME))
    assert card(context, ASSET, REPORT) == card(other, ASSET, REPORT)


def test_without_figures_of_quality_it_says_so(context: Context) -> None:
    assert "was not measured" in card(quantized(context, None), ASSET, REPORT)


@pytest.mark.parametrize(
    ("name", "text", "license", "said"),
    [
        ("README.md", "---\nlicense: mit\n---\n", {"license": "mit"}, "`mit`"),
        ("README.md", "---\nlicense: Apache License 2.0\n---\n", {"license": "apache-2.0"}, "`apache-2.0`"),
        (
            "README.md",
            "---\nlicense: other\nlicense_name: qwen\nlicense_link: LICENSE\n---\n",
            {"license": "other", "license_name": "qwen", "license_link": "LICENSE"},
            "`other (qwen)`",
        ),
        (
            "README.md",
            "---\nlicense: 'x\" : [y'\n---\n",
            {"license": "other", "license_name": 'x" : [y'},
            "other (x",
        ),
        ("LICENSE", "  Apache License\n  Version 2.0, January 2004", {"license": "apache-2.0"}, "`LICENSE`"),
        ("LICENSE", "All rights reserved", {"license": "other", "license_link": "LICENSE"}, "`LICENSE`"),
        ("README.md", "---\nlicense: [\n---\n", {}, "does not say"),
        ("README.md", "no metadata", {}, "does not say"),
    ],
)
def test_the_license_is_that_of_the_source(
    context: Context, name: str, text: str, license: dict[str, str], said: str
) -> None:
    source_says(context, text, name)
    found = metadata(context)
    assert {key: value for key, value in found.items() if key.startswith("license")} == license
    assert said in made(context).text
