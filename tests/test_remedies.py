"""Whoever refuses a request says what to do about it, right there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import lavatube
from lavatube import errors
from lavatube.errors import InternalError, LavatubeError, OperatorError

FOLDERS = ("serve", "predictions", "prompt")
FILES = [path for folder in FOLDERS for path in sorted((Path(lavatube.__file__).parent / folder).glob("*.py"))]
KINDS = {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type)
    and issubclass(kind, LavatubeError)
    and not issubclass(kind, OperatorError | InternalError)
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_refusal_has_a_remedy(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        if node.func.id in KINDS:
            assert "remedy" in {keyword.arg for keyword in node.keywords}, f"line {node.lineno}"
        if node.func.id in ("Problem", "misfit"):
            assert len(node.args) >= 3, f"line {node.lineno}"
