"""A URL in, the database behind it out: SQLite in a file of its own, or PostgreSQL; tables made, version checked."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Column, Engine, Integer, Table, create_engine, event, insert, inspect, select, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from lavatube.errors import DatabaseUnusable, StorageUnavailable
from lavatube.predictions.tables import metadata

logger = logging.getLogger(__name__)

VERSION: Final = 3
# What makes the tables of a version those of the next one. A table that is not there yet is made as it is now.
MIGRATIONS: Final[dict[int, dict[str, tuple[str, ...]]]] = {
    1: {"deliveries": ("ALTER TABLE deliveries ADD COLUMN holder VARCHAR(32)",)},
    2: {
        "predictions": (
            "ALTER TABLE predictions RENAME COLUMN id TO key",
            "ALTER TABLE predictions ADD COLUMN id VARCHAR(64) NOT NULL DEFAULT ''",
            "UPDATE predictions SET id = key",
            "CREATE UNIQUE INDEX predictions_by_id ON predictions (owner, id)",
            "DROP INDEX predictions_held",
            "ALTER TABLE predictions ADD COLUMN submitted_after INTEGER",
            """UPDATE predictions SET submitted_after = (
                SELECT COALESCE(MAX(first) + 1, 0) FROM prediction_pieces WHERE prediction_id = predictions.key
            ) WHERE is_submitted""",
            "ALTER TABLE predictions DROP COLUMN is_submitted",
        ),
        "prediction_pieces": ("ALTER TABLE prediction_pieces RENAME COLUMN prediction_id TO prediction_key",),
        "deliveries": ("ALTER TABLE deliveries RENAME COLUMN prediction_id TO prediction_key",),
    },
}
BUSY_S: Final = 5.0
RETRY_AFTER_S: Final = 5
# Others that come to make or migrate the database wait for the end of the transaction, but not for ever.
ALONE: Final = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": "SET LOCAL lock_timeout = '60s'; SELECT pg_advisory_xact_lock(7265738274)",
}

SCHEMA: Final = Table("schema_version", metadata, Column("version", Integer, primary_key=True))


def open_database(url: str) -> Engine:
    """Several processes may open it at once. Raises: DatabaseUnusable."""
    try:
        engine = _sqlite(url) if url.startswith("sqlite") else _postgresql(url)
    except (ArgumentError, ImportError) as error:
        logger.error("the database's URL: %s", type(error).__name__)  # noqa: TRY400 - its text may hold the password
        raise DatabaseUnusable(
            "The database's URL can't be used.",
            remedy="It is sqlite:///PATH or postgresql://USER@HOST/NAME; that needs lavatube[postgres].",
        ) from None
    except OSError as error:
        raise _unusable(url, error) from None
    try:
        _prepare(engine)
    except (SQLAlchemyError, OSError) as error:
        engine.dispose()
        raise _unusable(url, error) from None
    except DatabaseUnusable:
        engine.dispose()
        raise
    return engine


@contextmanager
def failures_told() -> Iterator[None]:
    """Around a use of the database that is not the journal's. Raises: StorageUnavailable if it fails."""
    try:
        yield
    except SQLAlchemyError as error:
        logger.warning("the database fails: %s", getattr(error, "orig", error))
        raise StorageUnavailable(
            "The database can't be used at the moment.", remedy="Try again in a moment.", retry_after_s=RETRY_AFTER_S
        ) from None


def _unusable(url: str, error: Exception) -> DatabaseUnusable:
    logger.error("the database can't be opened: %s", getattr(error, "orig", error))
    path = url.removeprefix("sqlite:///")
    which = f"The database {path}" if path != url else "The database"  # another URL may hold a password
    return DatabaseUnusable(f"{which} can't be opened.", remedy="The log says why; --database names another, or off.")


def _prepare(engine: Engine) -> None:
    """Make or migrate it, in one transaction: of several servers that come at once, one does the work."""
    with engine.begin() as connection:
        connection.exec_driver_sql(ALONE[connection.dialect.name])
        known = set(inspect(connection).get_table_names())
        version = connection.execute(select(SCHEMA.c.version)).scalar() if SCHEMA.name in known else None
        if version is not None and version > VERSION:
            raise DatabaseUnusable(
                f"The database is of version {version}; this server knows {VERSION}.",
                remedy="Use a server that is as new as the one that made it, or another database.",
            )
        metadata.create_all(connection)
        if version is None:
            connection.execute(insert(SCHEMA).values(version=VERSION))
        for step in range(version or VERSION, VERSION):
            for table, statements in MIGRATIONS[step].items():
                for statement in statements if table in known else ():
                    connection.execute(text(statement))
            connection.execute(update(SCHEMA).values(version=step + 1))


def _sqlite(url: str) -> Engine:
    """The file holds what people asked: nobody else may read it. Its journal gets the same rights."""
    path = make_url(url).database
    if path and path != ":memory:":
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    engine = create_engine(url, connect_args={"timeout": BUSY_S})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        # FULL: what was acknowledged is on the disk. Writers wait for one another, readers for nobody.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={int(BUSY_S * 1000)}"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine


def _postgresql(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername != "postgresql+psycopg":
        raise ArgumentError("neither SQLite nor PostgreSQL")
    return create_engine(parsed, pool_pre_ping=True, connect_args={"connect_timeout": int(BUSY_S)})
