from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.serve.live import LiveServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with LiveServer(tmp_path) as server:
        yield server


@pytest.fixture
def client(server: LiveServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One server a module: for tests that leave it as they found it."""
    with LiveServer(tmp_path_factory.mktemp("shared")) as server:
        yield server


@pytest.fixture(scope="module")
def shared_client(shared: LiveServer) -> Iterator[httpx.Client]:
    with shared.client() as client:
        yield client


@pytest.fixture(scope="module")
def stock(shared: LiveServer) -> Iterator[openai.OpenAI]:
    """The stock client, which does not try again."""
    with openai.OpenAI(base_url=f"{shared.url}/v1", api_key="any", max_retries=0, timeout=20) as client:
        yield client


@pytest.fixture(scope="session")
def http() -> Iterator[httpx.Client]:
    """A client of no server in particular; to make one costs more than most requests."""
    with httpx.Client(timeout=10) as client:
        yield client
