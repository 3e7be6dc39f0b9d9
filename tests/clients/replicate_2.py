"""Programs for Replicate's next Python client, 2.x, which has the name of 1.x and so a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.clients.installing import alone_in

REQUIREMENT = "replicate==2.0.0b4"
FOLDER = Path(__file__).parent / ".replicate-2"
STAMP = FOLDER / ".installed"
# What it needs, OpenAI's client needs too: it is in the environment already.
INSTALL = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(FOLDER)]
HEAD = """
import json, sys
def report(value): print("\\n" + json.dumps(value))
"""


def install() -> None:
    """Once for each version. Skips the test where there is no registry."""
    with alone_in(FOLDER.parent):
        _install()


def _install() -> None:
    if STAMP.exists() and STAMP.read_text() == REQUIREMENT:
        return
    done = subprocess.run([*INSTALL, REQUIREMENT], capture_output=True, text=True, timeout=100, check=False)
    if done.returncode != 0 and "connection" in done.stderr.lower():
        pytest.skip("pip can't reach its registry")
    assert done.returncode == 0, done.stderr
    STAMP.write_text(REQUIREMENT)


def run(script: str, *arguments: str, cwd: Path | None = None, **environ: str) -> Any:
    """What the script gives to `report(value)`; its output where it doesn't."""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + script, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(FOLDER), **environ},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    last = done.stdout.strip().splitlines()[-1]
    return json.loads(last) if "report(" in script else done.stdout
