"""Databases of other versions: an older one is migrated, a newer one refused, one that can't be made says so."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import create_engine, select, text

from lavatube.errors import DatabaseUnusable
from lavatube.predictions.database import SCHEMA, VERSION, open_database
from lavatube.predictions.outbox import DELIVERIES

VERSION_1 = """
    CREATE TABLE schema_version (version INTEGER NOT NULL PRIMARY KEY);
    INSERT INTO schema_version VALUES (1);
    CREATE TABLE deliveries (
        id VARCHAR(64) NOT NULL PRIMARY KEY, prediction_id VARCHAR(64) NOT NULL, owner VARCHAR(64) NOT NULL,
        url TEXT NOT NULL, body {bytes} NOT NULL, state VARCHAR(16) NOT NULL, attempts INTEGER NOT NULL,
        not_before_s FLOAT NOT NULL, status INTEGER
    );
    INSERT INTO deliveries VALUES ('msg_1', 'p', '', 'https://example.com', '', 'pending', 0, 0, NULL)
"""


def driver(url: str) -> str:
    return url.replace("postgresql:", "postgresql+psycopg:")


def test_servers_that_come_at_once_make_it_once(url: str) -> None:
    together = Barrier(6)

    def come() -> int | None:
        together.wait(30)
        engine = open_database(url)
        with engine.connect() as connection:
            version = connection.execute(select(SCHEMA.c.version)).scalar()
        engine.dispose()
        return version

    with ThreadPoolExecutor(6) as pool:
        versions = [future.result() for future in [pool.submit(come) for _ in range(6)]]
    assert versions == [VERSION] * 6


def test_an_older_one_is_migrated_with_what_is_in_it(url: str) -> None:
    engine = create_engine(driver(url))
    with engine.begin() as connection:
        for statement in VERSION_1.format(bytes="BYTEA" if "postgres" in url else "BLOB").split(";"):
            connection.execute(text(statement))
    engine.dispose()
    for _ in range(2):
        engine = open_database(url)
        with engine.connect() as connection:
            assert connection.execute(select(SCHEMA.c.version)).scalars().all() == [VERSION]
            assert connection.execute(select(DELIVERIES.c.id, DELIVERIES.c.holder)).all() == [("msg_1", None)]
        engine.dispose()


def test_a_newer_one_is_refused_and_left_as_it_is(url: str) -> None:
    engine = create_engine(driver(url))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE schema_version (version INTEGER NOT NULL PRIMARY KEY)"))
        connection.execute(text(f"INSERT INTO schema_version VALUES ({VERSION + 1})"))
    with pytest.raises(DatabaseUnusable, match=f"version {VERSION + 1}"):
        open_database(url)
    with engine.connect() as connection:
        assert not engine.dialect.has_table(connection, "predictions")
    engine.dispose()


def test_where_nothing_can_be_written_the_remedy_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatabaseUnusable) as refusal:
        open_database(f"sqlite:///{tmp_path / 'file' / 'journal.db'}")
    assert "--database names another, or off" in refusal.value.remedy
