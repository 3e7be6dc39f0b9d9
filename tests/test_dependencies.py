"""What the package imports as soon as it is imported is installed with it, and not with what the tests want besides."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
NAMES = {"PIL": "pillow", "prometheus_client": "prometheus-client"}  # where a module is not called as its package
BESIDES = {
    "triton": "comes with torch where there is a GPU, and is imported only then",
    "cog": "imports the module that imports it",
    "llguidance": "is an extra, which only the child that needs it imports",
    "pydantic_core": "is pydantic's own",
}


def test_all_that_is_imported_at_once_is_a_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[^A-Za-z0-9_.-]", each)[0].lower() for each in project["dependencies"]}
    wanted: dict[str, Path] = {}
    for path in sorted((ROOT / "src").rglob("*.py")):
        for module in _imported(ast.parse(path.read_text(encoding="utf-8"))):
            top = module.partition(".")[0]
            if top not in sys.stdlib_module_names and top != "lavatube" and top not in BESIDES:
                wanted.setdefault(NAMES.get(top, top), path.relative_to(ROOT))
    missing = {name: str(path) for name, path in wanted.items() if name not in declared}
    assert not missing
    assert len(wanted) > 10


def _imported(tree: ast.Module) -> Iterator[str]:
    """What stands outside of any function, condition or attempt."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module)
