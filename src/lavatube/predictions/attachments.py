"""What is kept with a prediction and is too large for its details: texts, by name. Blocking.

They are counted and forgotten with their prediction, by `journal.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import BigInteger, Column, Connection, Engine, LargeBinary, String, Table, insert, select

from lavatube.predictions.tables import metadata

ATTACHMENTS: Final = Table(
    "prediction_attachments",
    metadata,
    Column("prediction_key", String(64), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("content", LargeBinary, nullable=False),
)


class Attachments:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, connection: Connection, key: str, attachments: Mapping[str, str]) -> None:
        """To be called with the prediction's acceptance."""
        for name, text in attachments.items():
            content = text.encode()
            values = {"prediction_key": key, "name": name, "size_bytes": len(content), "content": content}
            connection.execute(insert(ATTACHMENTS), values)

    def find(self, key: str, name: str) -> str | None:
        which = (ATTACHMENTS.c.prediction_key == key) & (ATTACHMENTS.c.name == name)
        with self._engine.connect() as connection:
            content = connection.execute(select(ATTACHMENTS.c.content).where(which)).scalar()
        return None if content is None else bytes(content).decode()
