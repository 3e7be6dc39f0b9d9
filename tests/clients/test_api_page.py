"""Every program of docs/api.md, run as it stands there; only the port and the key are others."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients import replicate_2
from tests.clients.conftest import KEY
from tests.flow.server import Server

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
FENCES = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)


def programs(language: str) -> list[str]:
    return [text for name, text in FENCES if name == language]


def at(server: Server, program: str) -> str:
    return program.replace("http://127.0.0.1:5000", server.url).replace("your-key", KEY)


@pytest.mark.parametrize("program", programs("python"))
def test_python(program: str, server: Server) -> None:
    if "from replicate import Replicate" in program:
        replicate_2.install()
        assert replicate_2.run(at(server, program), cwd=ROOT).strip()
        return
    command = [sys.executable, "-c", at(server, program)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("program", programs("js"))
def test_javascript(program: str, server: Server, node: Callable[..., Any]) -> None:
    """It is run where the packages are, and not where it looks for pictures."""
    program = at(server, program).replace("examples/", f"{ROOT}/examples/")
    assert node(program + "\nreport(true);")


def test_nothing_else_is_on_the_page() -> None:
    assert {name for name, _ in FENCES} <= {"python", "js"}
