"""The one schema that all tables of the database belong to; each is declared by the module that owns it."""

from __future__ import annotations

from typing import Final

from sqlalchemy import MetaData

metadata: Final = MetaData()
