"""The layers of docs/architecture.md, held by the build: imports point down, no cycles, no torch in the front."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "lavatube"

# Low to high. A name stands for a module, or for a package with all that is in it; the first match of the longest name
# wins. Those on one line are strangers to each other.
LAYERS: list[set[str]] = [
    {"container", "doorman", "errors", "heap", "logs", "trace"},
    {"option"},
    {"settings", "spec"},
    {"checkpoint", "fidelity", "geometry", "memory"},
    {"engine.wire"},
    {"weights", "prompt", "model"},
    {"engine"},
    {"predictions"},
    {"serve"},
    {"assembly", "provisioning", "stores"},
    {"inspection"},
    {"flags", "pulling", "terminal"},
    {"begun"},
    {"setup"},
    {"predictor", "front"},
    {"boot"},
    {"cache_command", "keys_command", "lock_command"},
    {"platforms", "cli"},
    {"__main__"},
]
ALLOWED = {("model.load", "weights.composite")}
FRONT = {
    "begun",
    "boot",
    "doorman",
    "front",
    "cli",
    "flags",
    "heap",
    "serve",
    "setup",
    "predictions",
    "prompt",
    "engine.client",
    "engine.supervisor",
    "engine.wire",
}


@dataclass(frozen=True)
class Tree:
    """The import graph of one copy of the package: module -> our modules that it imports."""

    ours: dict[str, set[str]]


def read_tree(package: Path) -> Tree:
    names = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        names[".".join(part for part in parts if part != "__init__")] = path
    ours: dict[str, set[str]] = {}
    for name, path in names.items():
        ours[name] = set()
        for target in _imports(_parse(path.read_text(encoding="utf-8")), name):
            if target != "lavatube" and not target.startswith("lavatube."):
                continue
            module = target.removeprefix("lavatube").removeprefix(".")
            while module not in names:  # `from lavatube.errors import NotReady` names an attribute of a module
                module = module.rpartition(".")[0]
            if module != name:
                ours[name].add(module)
    return Tree(ours)


@cache
def _parse(text: str) -> ast.Module:
    """Most files of a copy are as they were."""
    return ast.parse(text)


def _imports(tree: ast.Module, module: str) -> list[str]:
    """Everything imported when the module is, and inside its functions too: a layer is not to be dodged."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def layer_of(module: str) -> tuple[int, str]:
    matches = [
        (len(name), height, name)
        for height, layer in enumerate(LAYERS)
        for name in layer
        if module == name or module.startswith(name + ".")
    ]
    assert matches, f"{module} has no layer: put it into the list"
    _, height, name = max(matches)
    return height, name


def upward_imports(tree: Tree) -> list[str]:
    broken = []
    for module, targets in tree.ours.items():
        for target in sorted(targets - {""}):
            if not module or (module, target) in ALLOWED:
                continue  # the root only hands out Predictor on demand
            (height, group), (target_height, target_group) = layer_of(module), layer_of(target)
            if target_height > height or (target_height == height and group != target_group):
                broken.append(f"{module} imports {target}")
    return broken


def cycles(tree: Tree) -> list[str]:
    done: set[str] = set()
    found: list[str] = []

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            found.append(" -> ".join((*path[path.index(module) :], module)))
        elif module not in done:
            for target in tree.ours[module] - {""}:
                visit(target, (*path, module))
            done.add(module)

    for module in tree.ours:
        if module:
            visit(module, ())
    return found


def torch_in_front(package: Path) -> list[str]:
    """Modules that the front imports at start and that import torch; functions' own imports don't count here."""
    top: dict[str, set[str]] = {}
    for path in package.rglob("*.py"):
        parts = [part for part in path.relative_to(package).with_suffix("").parts if part != "__init__"]
        body = [node for node in _parse(path.read_text(encoding="utf-8")).body if not _is_deferred(node)]
        top[".".join(parts)] = set(_imports(ast.Module(body=body, type_ignores=[]), ".".join(parts)))
    reached: set[str] = set()
    todo = [name for name in top for front in FRONT if name == front or name.startswith(front + ".")]
    broken = []
    while todo:
        name = todo.pop()
        if name in reached:
            continue
        reached.add(name)
        for target in top[name]:
            if target.partition(".")[0] == "torch":
                broken.append(name)
            inner = target.removeprefix("lavatube.")
            if target.startswith("lavatube."):
                todo += [known for known in (inner, inner.rpartition(".")[0]) if known and known in top]
    return broken


def _is_deferred(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


def test_imports_point_down() -> None:
    assert upward_imports(read_tree(PACKAGE)) == []


def test_no_cycles() -> None:
    assert cycles(read_tree(PACKAGE)) == []


def test_torch_is_not_reachable_from_the_front() -> None:
    assert torch_in_front(PACKAGE) == []


@pytest.mark.parametrize("module", ["front", "boot", "cli", "serve.app", "engine.client"])
def test_importing_the_front_loads_no_torch(module: str) -> None:
    code = f"import sys, lavatube.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PACKAGE, tmp_path / "lavatube", ignore=shutil.ignore_patterns("__pycache__", "tiny")))


def test_an_upward_import_fails(copy: Path) -> None:
    (copy / "errors.py").write_text("import lavatube.serve.app\n")
    assert "errors imports serve.app" in upward_imports(read_tree(copy))


def test_an_upward_import_inside_a_function_fails(copy: Path) -> None:
    (copy / "errors.py").write_text("def late():\n    from lavatube.serve import app\n")
    assert "errors imports serve.app" in upward_imports(read_tree(copy))


def test_strangers_that_meet_fail(copy: Path) -> None:
    (copy / "prompt" / "chat.py").write_text("import lavatube.weights.manifest\n")
    assert "prompt.chat imports weights.manifest" in upward_imports(read_tree(copy))


def test_a_cycle_fails(copy: Path) -> None:
    (copy / "prompt" / "one.py").write_text("import lavatube.prompt.two\n")
    (copy / "prompt" / "two.py").write_text("import lavatube.prompt.one\n")
    assert any("prompt.one" in cycle for cycle in cycles(read_tree(copy)))


def test_torch_behind_the_front_fails(copy: Path) -> None:
    (copy / "prompt" / "chat.py").write_text("import torch.nn\n")
    assert "prompt.chat" in torch_in_front(copy)
