"""Whoever refuses a request says what to do about it, right there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import lavatube
from lavatube import errors
from lavatube.errors import InternalError, LavatubeError

ROOT = Path(lavatube.__file__).parent
# The engine speaks to our own front, which has checked what a client can do about.
FILES = sorted(path for path in ROOT.rglob("*.py") if path.parent.name != "engine")
KINDS = {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type)
    and issubclass(kind, LavatubeError)
    and not issubclass(kind, InternalError)
    and not kind.usual_remedy
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_refusal_has_a_remedy(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        if node.func.id in KINDS:
            assert "remedy" in {keyword.arg for keyword in node.keywords}, f"line {node.lineno}"
        if node.func.id in ("Problem", "misfit"):
            assert len(node.args) >= 3, f"line {node.lineno}"
