from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from sqlalchemy import Engine, create_engine

from lavatube.predictions.files import FileLimits, FileStore
from lavatube.predictions.postman import Postman
from lavatube.predictions.server_secrets import Secrets
from lavatube.predictions.tables import metadata
from lavatube.serve.kept import Kept
from tests.serve.live import LiveServer


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """What Replicate's routes need of a database."""
    engine: Engine = create_engine(f"sqlite:///{tmp_path_factory.mktemp('database') / 'lavatube.db'}")
    metadata.create_all(engine)
    yield Kept(Secrets(engine), FileStore(engine, FileLimits(max_bytes=100_000)), Postman())
    engine.dispose()


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
    """The stock client, which does not try again, and takes no answer that is not as its types say."""
    options = {"max_retries": 0, "timeout": 20, "_strict_response_validation": True}
    with openai.OpenAI(base_url=f"{shared.url}/v1", api_key="any", **options) as client:
        yield client


@pytest.fixture(scope="session")
def http() -> Iterator[httpx.Client]:
    """A client of no server in particular; to make one costs more than most requests."""
    with httpx.Client(timeout=10) as client:
        yield client
