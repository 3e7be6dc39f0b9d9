"""Servers that several tests share: `tiny`, which answers, and a random checkpoint, which never stops by itself."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkpoints import write_checkpoint
from tests.flow.server import Server

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
ENDLESS_TOKENS = 16_000
"""More than any machine writes before a test interferes."""


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def tiny(cache: Path) -> Iterator[Server]:
    with Server("tiny", cache) as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="session")
def endless_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint whose answers run to their limit, so that there is time to interfere."""
    folder = write_checkpoint(tmp_path_factory.mktemp("endless"), max_positions=16_384, layers=6)
    (folder / "generation_config.json").write_text('{"eos_token_id": 0}')  # <unk>: nothing it would say
    return folder


@pytest.fixture
def endless(endless_folder: Path, cache: Path) -> Iterator[Server]:
    with endless_server(endless_folder, cache) as server:
        server.wait_ready()
        yield server


def endless_server(folder: Path, cache: Path, *flags: str) -> Server:
    """Of the random checkpoint; it takes requests of `ENDLESS_TOKENS`."""
    return Server(str(folder), cache, "--model-name", "endless", "--max-new-tokens", str(ENDLESS_TOKENS), *flags)


def data_url(name: str) -> str:
    return "data:image/png;base64," + base64.b64encode((EXAMPLES / name).read_bytes()).decode()
