"""API keys in the database: made, shown once, kept as digests, revoked. Blocking; knows no HTTP.

A key is `lava_<id>_<secret>`: the id is public and finds the row, the secret has 256 random bits. Therefore a single
SHA-256 is enough at rest: slow hashes are for passwords, which can be guessed; nobody can try 2^255 secrets.
"""

from __future__ import annotations

import base64
import re
import secrets
import time
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Final

from sqlalchemy import BigInteger, Boolean, Column, Engine, Float, LargeBinary, String, Table, insert, select, update
from sqlalchemy.engine import Row
from sqlalchemy.exc import IntegrityError

from lavatube.errors import InvalidSetting
from lavatube.predictions.owners import OwnerLimits
from lavatube.predictions.tables import metadata

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
KEY: Final = re.compile(rb"lava_([a-z2-7]{8})_([A-Za-z0-9_-]{43})")

KEYS: Final = Table(
    "api_keys",
    metadata,
    Column("id", String(8), primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("digest", LargeBinary(32), nullable=False),
    Column("is_operator", Boolean, nullable=False),
    Column("created_s", Float, nullable=False),
    Column("revoked_s", Float),
    Column("max_streams", BigInteger, nullable=False),
    Column("requests_per_minute", BigInteger, nullable=False),
    Column("tokens_per_minute", BigInteger, nullable=False),
    Column("weight", BigInteger, nullable=False),
    Column("priority", BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key, without its secret. An operator's may also stop the server and read its metrics. Times: Unix seconds."""

    id: str
    name: str
    digest: bytes = field(repr=False)
    limits: OwnerLimits
    is_operator: bool
    created_s: float
    revoked_s: float | None = None

    @property
    def is_valid(self) -> bool:
        return self.revoked_s is None


class KeyStore:
    """The table of keys; its transactions are short, so that several processes may use it at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, name: str, limits: OwnerLimits, *, is_operator: bool = False) -> tuple[ApiKey, str]:
        """A new key and its text, which nobody can be told again. Raises: InvalidSetting for a name in use."""
        if not NAME.fullmatch(name):
            raise InvalidSetting(f"{name!r} is no name for a key.", remedy="Up to 64 letters, digits and . _ - fit.")
        key_id = base64.b32encode(secrets.token_bytes(5)).decode().lower()
        text = f"lava_{key_id}_{secrets.token_urlsafe(32)}"
        key = ApiKey(key_id, name, digest_of(text.encode()), limits, is_operator, time.time())
        values = {name: value for name, value in asdict(key).items() if name != "limits"} | asdict(limits)
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(KEYS).values(values))
        except IntegrityError:
            raise InvalidSetting(
                f"There is a key {name!r} already.", remedy="Choose another name; those of revoked keys stay taken."
            ) from None
        return key, text

    def all(self) -> list[ApiKey]:
        """Revoked ones too, oldest first."""
        with self._engine.connect() as connection:
            return [_key(row) for row in connection.execute(select(KEYS).order_by(KEYS.c.created_s, KEYS.c.id))]

    def revoke(self, name: str) -> None:
        """It opens nothing any more; what it has made stays its own. Raises: InvalidSetting if there is no such key."""
        valid = (KEYS.c.name == name) & KEYS.c.revoked_s.is_(None)
        with self._engine.begin() as connection:
            found = connection.execute(update(KEYS).where(valid).values(revoked_s=time.time()))
        if not found.rowcount:
            raise InvalidSetting(f"There is no valid key {name!r}.", remedy="`lavatube keys ls` lists them.")


def digest_of(text: bytes) -> bytes:
    return sha256(text).digest()


def id_of(text: bytes) -> str:
    """The public part of a key's text; empty for what is no key of this form."""
    found = KEY.fullmatch(text)
    return found[1].decode() if found else ""


def _key(row: Row[tuple[object, ...]]) -> ApiKey:
    found = row._asdict()
    limits = OwnerLimits(**{name: found.pop(name) for name in OwnerLimits.__dataclass_fields__})
    return ApiKey(limits=limits, **found)
