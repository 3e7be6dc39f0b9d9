"""Every command and program of the README, run as it stands there; only the port is another one."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lavatube.cli import parse_arguments
from tests.flow.server import Server

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHELL = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
PORT = re.compile(r"http://127\.0\.0\.1:5000")


def run(command: list[str], cache: Path) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {**os.environ, "LAVATUBE_CACHE": str(cache), "PATH": path}
    result = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("program", PYTHON)
def test_python(program: str, tiny: Server, cache: Path) -> None:
    assert run([sys.executable, "-c", PORT.sub(tiny.url, program)], cache).strip()


@pytest.mark.parametrize("script", [script for script in SHELL if "curl" in script or "predict" in script])
def test_shell(script: str, tiny: Server, cache: Path) -> None:
    script = PORT.sub(tiny.url, script).replace(".venv/bin/", "")
    assert run(["bash", "-euc", script], cache).strip()


@pytest.mark.parametrize("line", re.findall(r"^\.venv/bin/lavatube (.*)$", README, re.MULTILINE))
def test_commands_are_understood(line: str) -> None:
    parse_arguments(shlex.split(line, comments=True))


def test_the_two_commands_are_in_the_makefile() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^make ([a-z]+)", README, re.MULTILINE)) <= set(targets)
