"""The one schema that all tables of the database belong to; each is declared by the module that owns it."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Engine, Insert, MetaData, Table
from sqlalchemy.dialects import sqlite

metadata: Final = MetaData()


def insert_new(engine: Engine, table: Table) -> Insert:
    """An INSERT that leaves out the rows whose key is there already."""
    if engine.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql  # most servers use SQLite, and would import it at each start

        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()
