"""A database of each kind, new for every test, and servers on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from lavatube.predictions.database import open_database
from tests.postgres import Postgres
from tests.predictions.durable import Clock, DurableServer, NewServer


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'journal.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = open_database(url)
    yield engine
    engine.dispose()


@pytest.fixture
async def server(url: str, tmp_path: Path) -> AsyncIterator[NewServer]:
    """Makes servers on one database; those that still run at the end are stopped."""
    servers: list[DurableServer] = []
    clock = Clock()

    def make(**options: object) -> DurableServer:
        servers.append(DurableServer(url, tmp_path / "tokenizer", clock, **options))
        return servers[-1]

    yield make
    for one in servers:
        if not one.scribe._writer._running.done():
            await one.stop()
