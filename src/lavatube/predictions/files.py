"""Files that clients upload to name them in predictions later: in the database, bounded in size, number and age.

Blocking. A file's name is a label: nothing is ever stored or looked up by it. Knows no HTTP.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Engine,
    Float,
    Index,
    LargeBinary,
    String,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
)
from sqlalchemy.engine import Row

from lavatube.errors import BodyTooLarge, NotFound
from lavatube.predictions.database import failures_told
from lavatube.predictions.tables import metadata

FILES: Final = Table(
    "files",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("name", String(255), nullable=False),
    Column("content_type", String(127), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("metadata", Text, nullable=False),
    Column("created_s", Float, nullable=False),
    Column("expires_s", Float, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Index("files_of_owner", "owner", "created_s"),
)


@dataclass(frozen=True, slots=True)
class FileLimits:
    """`max_total_bytes` are those of one owner; `max_age_s` seconds after it came a file is gone."""

    max_bytes: int = 20 * 1024 * 1024
    max_total_bytes: int = 512 * 1024 * 1024
    max_age_s: float = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What is known of a file, without its content. Times: Unix seconds."""

    id: str
    name: str
    content_type: str
    size_bytes: int
    sha256: str
    metadata: dict[str, Any]
    created_s: float
    expires_s: float


class FileStore:
    """Each owner sees its own files only. All methods raise StorageUnavailable where the database fails."""

    def __init__(self, engine: Engine, limits: FileLimits, clock: Callable[[], float] = time.time) -> None:
        self.limits = limits
        self._engine = engine
        self._clock = clock

    def add(self, owner: str, name: str, content_type: str, content: bytes, metadata: dict[str, Any]) -> StoredFile:
        """Raises: BodyTooLarge, also when the owner's files together are too large."""
        if len(content) > self.limits.max_bytes:
            raise BodyTooLarge(f"The file has more than {self.limits.max_bytes} bytes.", remedy="Send a smaller one.")
        now = self._clock()
        file = StoredFile(
            id=f"file-{base64.b32encode(secrets.token_bytes(16)).decode().rstrip('=').lower()}",
            name=name,
            content_type=content_type,
            size_bytes=len(content),
            sha256=sha256(content).hexdigest(),
            metadata=metadata,
            created_s=now,
            expires_s=now + self.limits.max_age_s,
        )
        values = {name: getattr(file, name) for name in _NAMES} | {"metadata": json.dumps(metadata)}
        with failures_told(), self._engine.begin() as connection:
            connection.execute(delete(FILES).where(FILES.c.expires_s <= now))
            total = connection.execute(select(func.sum(FILES.c.size_bytes)).where(FILES.c.owner == owner)).scalar()
            if (total or 0) + len(content) > self.limits.max_total_bytes:
                raise BodyTooLarge(
                    f"Your files have more than {self.limits.max_total_bytes} bytes together.",
                    remedy="Delete some, or wait until they expire.",
                )
            connection.execute(insert(FILES).values(owner=owner, content=content, **values))
        return file

    def get(self, owner: str, file_id: str) -> StoredFile:
        """Raises: NotFound."""
        with failures_told(), self._engine.connect() as connection:
            row = connection.execute(select(*_COLUMNS).where(self._is(owner, file_id))).one_or_none()
        return _file(row) if row is not None else _missing()

    def read(self, owner: str, file_id: str) -> bytes:
        """The content. Raises: NotFound."""
        with failures_told(), self._engine.connect() as connection:
            content = connection.execute(select(FILES.c.content).where(self._is(owner, file_id))).scalar()
        return bytes(content) if content is not None else _missing()

    def list(self, owner: str, limit: int) -> list[StoredFile]:
        """The newest first."""
        mine = (FILES.c.owner == owner) & (FILES.c.expires_s > self._clock())
        query = select(*_COLUMNS).where(mine).order_by(FILES.c.created_s.desc(), FILES.c.id).limit(limit)
        with failures_told(), self._engine.connect() as connection:
            return [_file(row) for row in connection.execute(query)]

    def remove(self, owner: str, file_id: str) -> None:
        """Raises: NotFound."""
        with failures_told(), self._engine.begin() as connection:
            removed = connection.execute(delete(FILES).where(self._is(owner, file_id))).rowcount
        if not removed:
            _missing()

    def _is(self, owner: str, file_id: str) -> Any:
        return (FILES.c.id == file_id) & (FILES.c.owner == owner) & (FILES.c.expires_s > self._clock())


_NAMES: Final = tuple(StoredFile.__dataclass_fields__)
_COLUMNS: Final = tuple(FILES.c[name] for name in _NAMES)


def _file(row: Row[Any]) -> StoredFile:
    found = dict(row._mapping)
    return StoredFile(**found | {"metadata": json.loads(found["metadata"])})


def _missing() -> Any:
    raise NotFound("There is no such file.", param="id", remedy="Files are kept for a while only.")
