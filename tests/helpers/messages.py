"""Every text in the package that a user may read, by module: `make messages` writes tests/messages.txt.

Taken from the syntax trees: strings of two words and more that are not docstrings, with `{...}` where a
value stands, and the docstrings of commands, which are their help. Strings that only machines read (patterns,
code) are few; they stay in the list, since a rule that left them out would leave out messages too.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "quantpipe"

_TWO_WORDS = re.compile(r"[^\W\d_]{2,}[,:;.]? +[^\W\d_{]|[^\W\d_]{2,}[,:;.]? +\{")


def messages() -> str:
    """The content of tests/messages.txt."""
    parts = []
    for path in sorted(PACKAGE.rglob("*.py")):
        found = list(dict.fromkeys(_texts(path)))
        if found:
            name = path.relative_to(ROOT).as_posix()
            parts.append("\n".join([f"# {name}", *found]))
    return "\n\n".join(parts) + "\n"


def _texts(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text("utf-8"))
    skipped = set(_docstrings(tree, commands=path.parent.name == "cli"))
    for node in _in_order(tree):
        if isinstance(node, ast.Constant | ast.JoinedStr) and node not in skipped:
            text = " ".join(_text(node).split())
            if _TWO_WORDS.search(text):
                yield text


def _in_order(node: ast.AST) -> Iterator[ast.AST]:
    """The tree in the order of the source; what is inside of an f-string belongs to it."""
    yield node
    if isinstance(node, ast.JoinedStr):
        for value in node.values:
            if isinstance(value, ast.FormattedValue):
                yield from _in_order(value.value)
        return
    for child in ast.iter_child_nodes(node):
        yield from _in_order(child)


def _docstrings(tree: ast.AST, *, commands: bool) -> Iterator[ast.AST]:
    """Strings that stand alone as statements; not those of click commands, which are shown as their help."""
    for node in ast.walk(tree):
        shown = commands and isinstance(node, ast.FunctionDef) and any(map(_is_command, node.decorator_list))
        body = getattr(node, "body", None)
        for index, statement in enumerate(body if isinstance(body, list) else ()):
            if isinstance(statement, ast.Expr) and not (shown and index == 0):
                yield statement.value


def _is_command(decorator: ast.expr) -> bool:
    call = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(call, ast.Attribute) and call.attr in ("command", "group")


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    values = node.values if isinstance(node, ast.JoinedStr) else []
    return "".join(_text(v) if isinstance(v, ast.Constant) else "{" + _name(v) + "}" for v in values)


def _name(value: ast.expr) -> str:
    return ast.unparse(value.value) if isinstance(value, ast.FormattedValue) else "..."


if __name__ == "__main__":
    sys.stdout.write(messages())
