"""Scripts in JavaScript, run by node against the clients that package-lock.json pins."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.clients.installing import alone_in

FOLDER = Path(__file__).parent
MODULES = FOLDER / "node_modules"
STAMP = MODULES / ".installed"
OLDEST_NODE = 20
HEAD = """
const argv = process.argv.slice(2);
const report = (value) => console.log('\\n' + JSON.stringify(value));
"""


def install() -> None:
    """`npm ci`, once for each state of the lock file. Skips the test where there is no node, or no registry."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.lstrip("v").split(".")[0]) < OLDEST_NODE:
        pytest.skip(f"node {version.strip()} is older than {OLDEST_NODE}")
    with alone_in(FOLDER):
        _install()


def _install() -> None:
    digest = sha256((FOLDER / "package-lock.json").read_bytes()).hexdigest()
    if STAMP.exists() and STAMP.read_text() == digest:
        return
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=100, check=False)
    unreachable = any(sign in done.stderr for sign in ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ETIMEDOUT"))
    if done.returncode != 0 and unreachable:
        pytest.skip("npm can't reach its registry")
    assert done.returncode == 0, done.stderr
    STAMP.write_text(digest)


def run(script: str, *arguments: str, timeout_s: float = 60, **environ: str) -> Any:
    """What an ES module gives to `report(value)`, which it has in its scope beside `argv`; None if it doesn't."""
    done = subprocess.run(
        ["node", "--input-type=module", "-", *arguments],
        input=HEAD + script,
        cwd=FOLDER,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if lines else None
