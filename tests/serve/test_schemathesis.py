"""Requests made up by schemathesis from our own OpenAPI document: no 5xx, and no status that is not documented."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.live import LiveServer

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def run(server: LiveServer, folder: Path, *flags: str) -> tuple[str, int]:
    """What it found, and how many cases it sent."""
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.url}/openapi.json"]
    options = ["--checks", CHECKS, "--seed", "1", "--generation-database", "none", "--no-color", *flags]
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=folder, check=False)
    found = re.search(r"([\d,]+) generated", done.stdout)
    assert found, done.stdout[-3000:] + done.stderr[-2000:]
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout, int(found[1].replace(",", ""))


def test_a_few_made_up_requests(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "server") as server:
        _, num_cases = run(server, tmp_path, "--phases", "fuzzing", "--max-examples", "8")
    assert num_cases >= 40


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_thousands_of_made_up_requests(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "server") as server:
        _, num_cases = run(server, tmp_path, "--phases", "coverage,fuzzing", "--max-examples", "400")
    assert num_cases >= 2000
