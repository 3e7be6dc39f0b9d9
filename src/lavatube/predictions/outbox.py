"""The ends that webhooks are still to be told, in the database: written when they come, tried until they are told.

Blocking. Several servers may share the table: whoever claims a row has it alone until its lease is over.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    delete,
    func,
    select,
    update,
)

from lavatube.predictions.tables import insert_new, metadata
from lavatube.predictions.webhook import DeliveryState

LEASE_S: Final = 60.0
KEPT_S: Final = 7 * 24 * 3600.0

DELIVERIES: Final = Table(
    "deliveries",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("prediction_key", String(64), nullable=False),
    Column("owner", String(64), nullable=False),
    Column("url", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("not_before_s", Float, nullable=False),
    Column("status", Integer),
    Column("holder", String(32)),
    Index("deliveries_due", "state", "not_before_s"),
)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One end to tell. `id` is the webhook-id, the same at each attempt; `not_before_s` is Unix time."""

    id: str
    prediction_key: str
    owner: str
    url: str
    body: bytes
    attempts: int = 0
    not_before_s: float = 0.0


def new_delivery_id() -> str:
    return "msg_" + base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower()


class Outbox:
    """The table's one user. `clock` is Unix time: it outlives the process."""

    def __init__(
        self, engine: Engine, clock: Callable[[], float] = time.time, holder: Callable[[], str] = lambda: ""
    ) -> None:
        """`holder` is whose lease on the predictions' journal also covers what is claimed here."""
        self._engine = engine
        self._adding = insert_new(engine, DELIVERIES)
        self._clock = clock
        self._holder = holder

    def store(self, connection: Connection, delivery: Delivery) -> None:
        """In the transaction that makes it true. Twice does no harm."""
        values = {name: getattr(delivery, name) for name in Delivery.__dataclass_fields__}
        values |= {"state": DeliveryState.PENDING, "holder": self._holder()}
        connection.execute(self._adding, values)

    def free(self, connection: Connection, holder: str) -> None:
        """What a server that is gone was about to tell is due at once."""
        which = (DELIVERIES.c.holder == holder) & (DELIVERIES.c.state == DeliveryState.PENDING)
        connection.execute(update(DELIVERIES).where(which).values(holder=None, not_before_s=self._clock()))

    def claim(self, limit: int, at_once: Collection[str] = ()) -> list[Delivery]:
        """Up to so many that are due, and of these whatever they say; nobody else gets them for LEASE_S."""
        now = self._clock()
        columns = [DELIVERIES.c[name] for name in Delivery.__dataclass_fields__]
        is_due = (DELIVERIES.c.not_before_s <= now) | DELIVERIES.c.id.in_(at_once)
        due = (DELIVERIES.c.state == DeliveryState.PENDING) & is_due
        with self._engine.connect() as connection:
            query = select(*columns).where(due).order_by(DELIVERIES.c.not_before_s).limit(limit)
            found = [Delivery(**row._mapping) for row in connection.execute(query)]
        return [delivery for delivery in found if self._lease(delivery, now + LEASE_S)]

    def next_s(self) -> float | None:
        """Seconds until the next one is due; None if there is none."""
        pending = DELIVERIES.c.state == DeliveryState.PENDING
        with self._engine.connect() as connection:
            first = connection.execute(select(func.min(DELIVERIES.c.not_before_s)).where(pending)).scalar()
        return None if first is None else max(first - self._clock(), 0.0)

    def settle(self, delivery: Delivery, state: DeliveryState, wait_s: float, status: int | None) -> None:
        """After an attempt. What will not be tried again needs no body any more."""
        is_over = state is not DeliveryState.PENDING
        values = {"state": state, "attempts": delivery.attempts + 1, "status": status, "holder": None}
        values |= {"not_before_s": self._clock() + wait_s} | ({"body": b""} if is_over else {})
        with self._engine.begin() as connection:
            connection.execute(update(DELIVERIES).where(DELIVERIES.c.id == delivery.id).values(**values))

    def forget_old(self) -> None:
        """Those that were over a week ago."""
        is_over = DELIVERIES.c.state != DeliveryState.PENDING
        with self._engine.begin() as connection:
            connection.execute(delete(DELIVERIES).where(is_over & (DELIVERIES.c.not_before_s < self._clock() - KEPT_S)))

    def _lease(self, delivery: Delivery, until_s: float) -> bool:
        is_free = (DELIVERIES.c.id == delivery.id) & (DELIVERIES.c.not_before_s == delivery.not_before_s)
        with self._engine.begin() as connection:
            leased = {"not_before_s": until_s, "holder": self._holder()}
            return connection.execute(update(DELIVERIES).where(is_free).values(leased)).rowcount == 1
