"""Requests made up by schemathesis from our own OpenAPI documents: no 5xx, and no status that is not documented."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lavatube.serve.kept import Kept
from tests.serve.live import LiveServer

DOCUMENTS = ("/openapi.json", "/v1/openapi.json")
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.fixture
def server(tmp_path: Path, kept: Kept) -> Iterator[LiveServer]:
    with LiveServer(tmp_path / "server", kept=kept) as server:
        yield server


def run(server: LiveServer, document: str, folder: Path, *flags: str) -> int:
    """How many cases it sent. Fails with what it found."""
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.url}{document}"]
    options = ["--url", server.url, "--checks", CHECKS, "--seed", "1", "--generation-database", "none", "--no-color"]
    environ = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.serve.dot_segments", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*command, *options, *flags], capture_output=True, text=True, cwd=folder, env=environ, check=False
    )
    found = re.search(r"([\d,]+) generated", done.stdout)
    assert found, done.stdout[-3000:] + done.stderr[-2000:]
    assert done.returncode == 0, done.stdout[-6000:]
    return int(found[1].replace(",", ""))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_few_made_up_requests(server: LiveServer, document: str, tmp_path: Path) -> None:
    assert run(server, document, tmp_path, "--phases", "fuzzing", "--max-examples", "4") >= 20


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("document", "max_examples"), [(DOCUMENTS[0], "400"), (DOCUMENTS[1], "60")])
def test_thousands_of_made_up_requests(server: LiveServer, document: str, max_examples: str, tmp_path: Path) -> None:
    assert run(server, document, tmp_path, "--phases", "coverage,fuzzing", "--max-examples", max_examples) >= 2000
