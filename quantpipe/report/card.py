"""The model card of a checkpoint: README.md with Hugging Face's metadata, written when it is sealed.

A function of what the checkpoint was made of, and of nothing else: no times, hosts or paths. It goes wherever
the checkpoint goes. Keys: https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from quantpipe import __version__
from quantpipe.recipe.model import Recipe
from quantpipe.report.blocks import (
    Block,
    Bullets,
    Code,
    Column,
    Link,
    Listing,
    Paragraph,
    Section,
    Table,
    Text,
)
from quantpipe.report.evidence import kinds_table
from quantpipe.report.license import License, license_of, source_metadata
from quantpipe.report.markdown import block_parts, escaped, section_parts
from quantpipe.report.quality_section import figures_table
from quantpipe.report.settings import settings_of
from quantpipe.report.sizes import sizes_by_kind
from quantpipe.report.wording import TYPES, decibels, number, short, types
from quantpipe.smoke.server_command import serve_command
from quantpipe.stage import Context
from quantpipe.store.manifest import PROVENANCE
from quantpipe.store.quality import Quality
from quantpipe.text import human_bytes
from quantpipe.verify.report import Report

_PAGES = {"huggingface": "https://huggingface.co", "modelscope": "https://modelscope.cn/models"}
_FOLDER = "path/to/this/folder"


def card(context: Context, checkpoint: Path, report: Report) -> str:
    """The text of README.md.

    Args:
        checkpoint: the directory that was verified.
        report: of the verification.
    """
    recipe, snapshot = context.recipe, context.store.absolute(context.fetch.snapshot)
    said = source_metadata(snapshot)
    license = license_of(snapshot, said)
    sections = (
        _serve(recipe, report),
        _quantized(checkpoint, snapshot, report),
        _quality(context.quantize.quality),
        _checks(report),
        _made(context),
        Section("license", "License", (Paragraph(_license(license)),)),
    )
    parts = [f"# {escaped(recipe.name)}", *block_parts(Paragraph(_summary(context)))]
    parts += [part for section in sections for part in section_parts(section)]
    return metadata(recipe, license, said) + "\n" + "\n\n".join(parts) + "\n"


def metadata(recipe: Recipe, license: License, said: dict[str, Any]) -> str:
    """The YAML block that hubs read.

    Args:
        said: the metadata of the source's own card.
    """
    found: dict[str, Any] = {}
    if recipe.source.hub != "local":
        found |= {"base_model": recipe.source.repo, "base_model_relation": "quantized"}
    found |= license.metadata()
    if languages := _texts(said.get("language")):
        found["language"] = languages
    found["library_name"] = "vllm"
    task = said.get("pipeline_tag")
    found["pipeline_tag"] = task if isinstance(task, str) else "text-generation"
    tags = ["w8a8", "int8", "ascend", "vllm-ascend", "msmodelslim", "quantpipe"]
    found["tags"] = [*tags, "quarot"] if recipe.quantize.rotate else tags
    return f"---\n{yaml.safe_dump(found, sort_keys=False, allow_unicode=True)}---\n"


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str) and text]


def _source(context: Context) -> Link | Code:
    source = context.recipe.source
    if source.hub in _PAGES:
        return Link(source.repo, f"{_PAGES[source.hub]}/{source.repo}")
    return Code(Path(source.repo).name)


def _summary(context: Context) -> Text:
    quantized = context.receipts.quantize.figures
    return (
        "A W8A8 checkpoint for vLLM-Ascend, quantized from ",
        _source(context),
        " at ",
        Code(short(context.fetch.commit)),
        f": {human_bytes(quantized.source_bytes)} of BF16 weights became {human_bytes(quantized.bytes)}.",
    )


def _serve(recipe: Recipe, report: Report) -> Section:
    command = serve_command(_FOLDER, recipe.smoke.serve)
    said = Paragraph(
        f"Made for vllm-ascend {report.target}. The options are those of the recipe that made it; plain vLLM "
        "does not know this format."
    )
    return Section("serve", "Serve it", (said, Listing(command.shell())))


def _quantized(checkpoint: Path, snapshot: Path, report: Report) -> Section:
    counts: dict[str, int] = report.figures.get("types", {})
    meanings = tuple((Code(name), f": {TYPES[name]}") for name in TYPES if name in counts)
    blocks: list[Block] = []
    if counts:
        blocks += [Paragraph(f"Quantized modules: {types(counts)}."), Bullets(meanings)]
    if kinds := sizes_by_kind(checkpoint, snapshot):
        blocks.append(kinds_table(kinds))
    return Section("quantized", "What is quantized", tuple(blocks))


def _quality(quality: Quality | None) -> Section:
    if quality is None:
        text = "How far it is from BF16 was not measured."
        return Section("quality", "Quality", (Paragraph(text),))
    worst = quality.worst_layer
    text = f"Compared with the BF16 model on {number(quality.tokens, 'held-out token')}."
    if worst is not None:
        text += f" The worst of {number(len(quality.layers), 'layer')} is layer {worst.index}: "
        text += f"{decibels(worst.sqnr)} dB SQNR of its output on the same input."
    return Section("quality", "Quality", (Paragraph(text), figures_table(quality)))


def _checks(report: Report) -> Section:
    found = ", ".join(number(count, word) for word, count in report.counts().items() if count)
    text = f"{number(len(report.passed), 'static check')} passed{f' ({found})' if found else ''}."
    blocks: list[Block] = [Paragraph(text)]
    if report.findings:
        rows = tuple((Code(f.id), f.severity.value, f.text) for f in report.findings)
        columns = (Column("Check"), Column("Severity"), Column("What"))
        blocks.append(Table("Findings", columns, rows))
    if report.skipped:
        skipped = "; ".join(f"{check} needs {reason}" for check, reason in report.skipped.items())
        blocks.append(Paragraph(f"Could not run: {skipped}."))
    return Section("checks", "Checks", tuple(blocks))


def _made(context: Context) -> Section:
    settings = settings_of(context.recipe)
    section = yaml.safe_dump({"quantize": settings["quantize"]}, sort_keys=False, allow_unicode=True)
    versions = ", ".join(
        f"{name} {version}" for name, version in context.receipts.quantize.figures.versions.items()
    )
    text: Text = (
        f"By quantpipe {__version__}, with {versions}. ",
        Code(PROVENANCE),
        " has the source's commit and the SHA-256 of every file. The recipe, datasets as digests of their "
        "prompts:",
    )
    return Section("made", "How it was made", (Paragraph(text), Listing(section.rstrip())))


def _license(license: License) -> Text:
    if not license.origin:
        return "The source does not say under which license it is."
    name = f"{license.id} ({license.name})" if license.name else license.id
    return ("That of the source, according to its ", Code(license.origin), ": ", Code(name), ".")
