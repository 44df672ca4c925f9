"""A benchmark's own wording, read from the user's copy of its source; the code in it is never run.

So the prompts are the benchmark's to the letter, whatever its version, and none of them is kept here.
"""

from __future__ import annotations

import ast
from pathlib import Path


def wordings(path: Path) -> dict[str, list[str]]:
    """Texts that the file assigns (or adds) to each name, in the order they stand there.

    A text that is put together from parts comes as a template for `str.format`: one `{}` for each part that is
    not plain text. ValueError if the file is missing or is not Python.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: give the folder of your copy of the benchmark's repository")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise ValueError(f"{path} is not Python: {error}") from error
    assignments = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            assignments.append((node.lineno, node.targets[0].id, node.value))
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            assignments.append((node.lineno, node.target.id, node.value))
    found: dict[str, list[str]] = {}
    for _, name, value in sorted(assignments, key=lambda one: one[0]):
        text = _text(value)
        if text is not None:
            found.setdefault(name, []).append(text)
    return found


def wording(path: Path, name: str, place: int = 0) -> str:
    """One of them. ValueError, naming file and name, where it is not there."""
    texts = wordings(path).get(name, [])
    if place >= len(texts):
        raise ValueError(f"{path} has no text {name!r} ({place + 1}.): is this the benchmark's own file?")
    return texts[place]


def _text(node: ast.expr) -> str | None:
    """None for what is not text. Plain text is left as it is: benchmarks write their own `{}` into it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if not isinstance(node, ast.JoinedStr | ast.BinOp):
        return None
    template = _template(node)
    return template if template.replace("{}", "").strip() else None


def _template(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.replace("{", "{{").replace("}", "}}")
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _template(node.left) + _template(node.right)
    return "{}"
