"""docs/checks.md, made from the registry: `python -m quantpipe.verify.checks.docs > docs/checks.md`."""

from __future__ import annotations

import sys

from quantpipe.verify.checks.all import all_checks
from quantpipe.verify.checks.needs import NEEDS

_INTRODUCTION = """\
# The checks of `quantpipe verify`

Made from the registry in `quantpipe/verify/checks`; do not edit it here.

A checks find what makes vLLM-Ascend stop while loading. B checks find what it loads silently and
then computes wrongly: vLLM does no completeness check on quantized models. C checks cover the whole.

An error ends `quantpipe verify` with exit code 3 and is never published. A warning may be wrong, a note is
worth knowing. The severity below is that of the check; single findings of it may be milder.

What a check needs:
"""


def checks_markdown() -> str:
    """The page."""
    lines = [
        _INTRODUCTION,
        *(f"- *{need.name}*: {need.text}" for need in NEEDS),
        "",
        "| id | severity | needs | what is checked | what goes wrong at serving | what to do |",
        "|---|---|---|---|---|---|",
    ]
    for check in all_checks():
        cells = (check.id, check.severity.value, check.needs.name, check.title, check.effect, check.fix)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(checks_markdown())
