"""Databases of other versions: an older one is migrated, a newer one refused, one that can't be made says so."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import Connection, create_engine, select, text

from lavatube.engine.wire import Sampling
from lavatube.errors import DatabaseUnusable
from lavatube.predictions.database import SCHEMA, VERSION, open_database
from lavatube.predictions.events import Status
from lavatube.predictions.journal import PREDICTIONS, row_of, start_of
from lavatube.predictions.outbox import DELIVERIES
from lavatube.predictions.prediction import Prediction
from lavatube.predictions.records import Piece, Request, encode_pieces
from lavatube.prompt.chat import Chat, Generation
from lavatube.prompt.prepare import Prepared
from tests.predictions.durable import NewServer

ASKED = Request(Chat(()), Generation())

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
VERSION_2 = """
    CREATE TABLE schema_version (version INTEGER NOT NULL PRIMARY KEY);
    INSERT INTO schema_version VALUES (2);
    CREATE TABLE predictions (
        id VARCHAR(64) NOT NULL PRIMARY KEY, owner VARCHAR(64) NOT NULL, origin VARCHAR(16) NOT NULL,
        model VARCHAR(128) NOT NULL, created_s {real} NOT NULL, status VARCHAR(16) NOT NULL, holder VARCHAR(32),
        is_cancelled BOOLEAN NOT NULL, is_submitted BOOLEAN NOT NULL, deaths INTEGER NOT NULL, ended_s {real},
        size_bytes BIGINT NOT NULL, header {bytes} NOT NULL, request {bytes} NOT NULL, state {bytes} NOT NULL
    );
    CREATE INDEX predictions_held ON predictions (status, holder);
    CREATE TABLE prediction_pieces (
        prediction_id VARCHAR(64) NOT NULL, first INTEGER NOT NULL, body {bytes} NOT NULL,
        PRIMARY KEY (prediction_id, first)
    )
"""


def make(connection: Connection, script: str) -> None:
    is_postgres = connection.dialect.name == "postgresql"
    types = ("BYTEA", "DOUBLE PRECISION") if is_postgres else ("BLOB", "FLOAT")
    for statement in script.format(bytes=types[0], real=types[1]).split(";"):
        connection.execute(text(statement))


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
        make(connection, VERSION_1)
    engine.dispose()
    for _ in range(2):
        engine = open_database(url)
        with engine.connect() as connection:
            assert connection.execute(select(SCHEMA.c.version)).scalars().all() == [VERSION]
            assert connection.execute(select(DELIVERIES.c.id, DELIVERIES.c.holder)).all() == [("msg_1", None)]
        engine.dispose()


@pytest.mark.parametrize("is_submitted", [False, True])
async def test_an_older_journal_is_gone_on_with(url: str, server: NewServer, is_submitted: bool) -> None:
    """Its one prediction was begun; if nothing was written since, it may have been the cause of the death."""
    asked = Prediction("x", owner="me")
    asked.start(6, 0)
    request = Prepared(list(range(3, 9)), (), Sampling(max_tokens=12), (), 6, 0)
    values = {**row_of(asked, ASKED, "", "dead"), **start_of(asked, request, 0)}
    del values["key"], values["submitted_after"]
    values |= {"is_submitted": is_submitted, "holder": None, "status": values["status"].value}
    engine = create_engine(driver(url))
    with engine.begin() as connection:
        make(connection, VERSION_2)
        names = ", ".join(values)
        connection.execute(text(f"INSERT INTO predictions ({names}) VALUES (:{names.replace(', ', ', :')})"), values)
        body = encode_pieces([Piece(0, [token_id], "a") for token_id in range(3, 7)])
        connection.execute(text("INSERT INTO prediction_pieces VALUES ('x', 0, :body)"), {"body": body})
    engine.dispose()
    one = server()
    with one.database.connect() as connection:
        after = connection.scalars(select(PREDICTIONS.c.submitted_after)).all()
    assert after == [1 if is_submitted else None], "behind all that is stored"
    await one.service.adopt()
    assert await one.service.find("x", "another") is None
    found = await one.service.get("x", "me")
    assert await found.wait(30)
    assert (found.key, found.status, len(found.log.outputs)) == ("x", Status.SUCCEEDED, 12)
    assert [event.text for event in found.log.pieces(0)[:4]] == ["a"] * 4


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
