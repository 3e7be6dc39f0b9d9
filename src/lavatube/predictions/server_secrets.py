"""Secrets that the server makes itself, once, and keeps: what signs webhooks, what guards streams. Blocking."""

from __future__ import annotations

import base64
import secrets
from typing import Final

from sqlalchemy import Column, Engine, String, Table, insert, select
from sqlalchemy.exc import IntegrityError

from lavatube.predictions.database import failures_told
from lavatube.predictions.tables import metadata

SECRET_BYTES: Final = 32

SECRETS: Final = Table(
    "secrets",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("value", String(128), nullable=False),
)


class Secrets:
    """By name. What was read once is remembered: a secret never changes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[str, str] = {}

    def get(self, name: str) -> str:
        """In standard base64, made at the first call for this name by whichever server calls.

        Raises: StorageUnavailable.
        """
        if name not in self._known:
            with failures_told():
                self._known[name] = self._read(name) or self._make(name)
        return self._known[name]

    def webhook(self, owner: str) -> str:
        """What signs the webhooks of one API key's predictions. One underscore: a stock client splits there."""
        return "whsec_" + self.get(f"webhook:{owner}")

    def _read(self, name: str) -> str | None:
        with self._engine.connect() as connection:
            return connection.execute(select(SECRETS.c.value).where(SECRETS.c.name == name)).scalar()

    def _make(self, name: str) -> str:
        value = base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(SECRETS).values(name=name, value=value))
        except IntegrityError:  # another server was quicker
            found = self._read(name)
            assert found is not None
            return found
        return value
