"""Predictions in the database: their requests, the pieces of their answers, their ends. Blocking.

Its methods that change something take a connection, so that `writer.py` can put many changes into one transaction.
Who may change what is decided by `leases.py`: a prediction belongs to its holder as long as that has its lease.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    LargeBinary,
    Select,
    String,
    Table,
    bindparam,
    case,
    cast,
    delete,
    func,
    select,
    update,
)

from lavatube.predictions.attachments import ATTACHMENTS
from lavatube.predictions.events import Status
from lavatube.predictions.prediction import Prediction
from lavatube.predictions.records import (
    Piece,
    Request,
    Row,
    decode_pieces,
    encode_header,
    encode_request,
    encode_state,
)
from lavatube.predictions.tables import insert_new, metadata
from lavatube.prompt.prepare import Prepared

PREDICTIONS: Final = Table(
    "predictions",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("id", String(64), nullable=False),
    Column("owner", String(64), nullable=False),
    Column("origin", String(16), nullable=False),
    Column("model", String(128), nullable=False),
    Column("created_s", Float(53), nullable=False),
    Column("status", String(16), nullable=False),
    Column("holder", String(32)),
    Column("is_cancelled", Boolean, nullable=False),
    Column("submitted_after", Integer),  # so many pieces it was given to an engine by its holder
    Column("deaths", Integer, nullable=False),
    Column("ended_s", Float(53)),
    Column("size_bytes", BigInteger, nullable=False),
    Column("header", LargeBinary, nullable=False),
    Column("request", LargeBinary, nullable=False),
    Column("state", LargeBinary, nullable=False),
    Index("predictions_by_id", "owner", "id", unique=True),
    Index("predictions_of_owner", "owner", "origin", "created_s"),
    Index("predictions_ended", "ended_s"),
)
PIECES: Final = Table(
    "prediction_pieces",
    metadata,
    Column("prediction_key", String(64), primary_key=True),
    Column("first", Integer, primary_key=True),  # how many pieces come before these
    Column("body", LargeBinary, nullable=False),
)

_ROW: Final = tuple(PREDICTIONS.c[name] for name in Row.__dataclass_fields__)
_IS_RUNNING: Final = PREDICTIONS.c.ended_s.is_(None)
_HAS_SPOKEN: Final = (  # since it was given to an engine: it brought nobody down
    select(PIECES.c.first)
    .where((PIECES.c.prediction_key == PREDICTIONS.c.key) & (PIECES.c.first >= PREDICTIONS.c.submitted_after))
    .exists()
)
# Made once, since making a statement takes longer than executing it. What is changed are the values that come with it.
_CHANGE: Final = update(PREDICTIONS).where(
    (PREDICTIONS.c.key == bindparam("of")) & (PREDICTIONS.c.holder == bindparam("by")) & _IS_RUNNING
)


Stored = tuple[Row, list[Piece]]


class Journal:
    """The tables' one user."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._adding = insert_new(engine, PREDICTIONS).returning(PREDICTIONS.c.key)
        self._writing = insert_new(engine, PIECES)

    def accept(self, connection: Connection, values: dict[str, Any], *, replaces: str | None = None) -> bool:
        """`values` are those of `row_of`. False if the owner's id is in use, and not by what it replaces."""
        if replaces is not None:
            self.forget(connection, [replaces])
        return connection.execute(self._adding, values).first() is not None

    def write(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        """Rows of pieces. One that is there already is the same: the answer to a commit got lost."""
        connection.execute(self._writing, rows)

    def change(self, connection: Connection, key: str, holder: str, values: dict[str, Any]) -> bool:
        """`values` are those of `start_of` or `end_of`. False if it is not the holder's."""
        return connection.execute(_CHANGE, {"of": key, "by": holder, **values}).rowcount == 1

    def cancel(self, connection: Connection, key: str) -> None:
        """Wherever it runs: its holder looks for this."""
        which = (PREDICTIONS.c.key == key) & _IS_RUNNING
        connection.execute(update(PREDICTIONS).where(which).values(is_cancelled=True))

    def adopt(self, connection: Connection, holder: str, model: str, but: Collection[str], limit: int) -> list[Row]:
        """Up to so many of a model that nobody holds, the oldest first; also what this holder knows nothing of."""
        free = _free(holder, model, but).order_by(PREDICTIONS.c.created_s).limit(limit)
        found: list[str] = list(connection.scalars(free))
        taken = [one for one in found if self._take(connection, one, holder)]
        query = select(*_ROW).where(PREDICTIONS.c.key.in_(taken)).order_by(PREDICTIONS.c.created_s)
        return [_row(row) for row in connection.execute(query)] if taken else []

    def free(self, connection: Connection, holder: str, *, has_died: bool) -> None:
        """All that it held may be adopted. What was in the engine and silent when it died may be the cause."""
        is_silent = cast(PREDICTIONS.c.submitted_after.is_not(None), Integer)
        deaths = case((_HAS_SPOKEN, 0), else_=PREDICTIONS.c.deaths + (is_silent if has_died else 0))
        which = (PREDICTIONS.c.holder == holder) & _IS_RUNNING
        connection.execute(update(PREDICTIONS).where(which).values(holder=None, submitted_after=None, deaths=deaths))

    def withdraw(self, connection: Connection, key: str, holder: str) -> None:
        """What its holder has just accepted; what another server has taken on stays."""
        is_new = (PREDICTIONS.c.holder == holder) & (PREDICTIONS.c.status == Status.STARTING)
        if connection.execute(delete(PREDICTIONS).where((PREDICTIONS.c.key == key) & is_new)).rowcount:
            self.forget(connection, [key])

    def forget(self, connection: Connection, keys: Collection[str]) -> None:
        for table in (ATTACHMENTS, PIECES):
            connection.execute(delete(table).where(table.c.prediction_key.in_(keys)))
        connection.execute(delete(PREDICTIONS).where(PREDICTIONS.c.key.in_(keys)))

    def forget_old(self, connection: Connection, before_s: float, max_bytes: int) -> int:
        """Those that ended before, and then the oldest, until the rest fits. Returns how many."""
        newest_first = PREDICTIONS.c.ended_s.desc(), PREDICTIONS.c.key
        attached = func.sum(ATTACHMENTS.c.size_bytes)
        mine = select(attached).where(ATTACHMENTS.c.prediction_key == PREDICTIONS.c.key).scalar_subquery()
        size_bytes = PREDICTIONS.c.size_bytes + func.coalesce(mine, 0)
        sum_bytes = func.sum(size_bytes).over(order_by=newest_first).label("sum_bytes")
        ended = select(PREDICTIONS.c.key, PREDICTIONS.c.ended_s, sum_bytes).where(PREDICTIONS.c.ended_s.is_not(None))
        rows = ended.subquery()
        old = select(rows.c.key).where((rows.c.ended_s < before_s) | (rows.c.sum_bytes > max_bytes))
        forgotten = list(connection.scalars(old))
        for start in range(0, len(forgotten), 500):
            self.forget(connection, forgotten[start : start + 500])
        return len(forgotten)

    def has_free(self, holder: str, model: str, but: Collection[str]) -> bool:
        """Whether there is something to adopt."""
        with self._engine.connect() as connection:
            return connection.execute(_free(holder, model, but).limit(1)).first() is not None

    def cancelled(self, holder: str) -> list[str]:
        """The keys of those of a holder that somebody has cancelled elsewhere."""
        which = (PREDICTIONS.c.holder == holder) & PREDICTIONS.c.is_cancelled & _IS_RUNNING
        with self._engine.connect() as connection:
            return list(connection.execute(select(PREDICTIONS.c.key).where(which)).scalars())

    def find(self, prediction_id: str, owner: str) -> Stored | None:
        """What is stored of one that its owner calls so."""
        return self._find((PREDICTIONS.c.id == prediction_id) & (PREDICTIONS.c.owner == owner))

    def find_by_key(self, key: str, after: int = 0) -> Stored | None:
        """What is stored of one, but for its first pieces."""
        return self._find(PREDICTIONS.c.key == key, after)

    def pieces(self, key: str) -> list[Piece]:
        with self._engine.connect() as connection:
            return self._pieces(connection, key)

    def page(self, owner: str, origin: str, before: str | None, limit: int) -> list[str] | None:
        """The ids of one owner and API, the newest first, those before that one; None if that is not there."""
        mine = (PREDICTIONS.c.owner == owner) & (PREDICTIONS.c.origin == origin)
        key = PREDICTIONS.c.created_s, PREDICTIONS.c.id
        with self._engine.connect() as connection:
            query = select(PREDICTIONS.c.id).where(mine)
            if before is not None:
                place = connection.execute(select(*key).where(mine & (PREDICTIONS.c.id == before))).one_or_none()
                if place is None:
                    return None
                query = query.where((key[0] < place[0]) | ((key[0] == place[0]) & (key[1] < place[1])))
            return list(connection.execute(query.order_by(key[0].desc(), key[1].desc()).limit(limit)).scalars())

    def _find(self, which: ColumnElement[bool], after: int = 0) -> Stored | None:
        with self._engine.connect() as connection:
            found = connection.execute(select(*_ROW).where(which)).one_or_none()
            if found is None:
                return None
            row = _row(found)  # read before its pieces, of which there may be more by now, and even first ones
            return row, [] if row.status == Status.STARTING else self._pieces(connection, row.key, after)

    def _take(self, connection: Connection, key: str, holder: str) -> bool:
        is_free = PREDICTIONS.c.holder.is_(None) | (PREDICTIONS.c.holder == holder)
        which = (PREDICTIONS.c.key == key) & _IS_RUNNING & is_free
        return connection.execute(update(PREDICTIONS).where(which).values(holder=holder)).rowcount == 1

    def _pieces(self, connection: Connection, key: str, after: int = 0) -> list[Piece]:
        mine = (PIECES.c.prediction_key == key) & (PIECES.c.first >= after)
        return decode_pieces(connection.execute(select(PIECES.c.body).where(mine).order_by(PIECES.c.first)).scalars())


def row_of(prediction: Prediction, request: Request, model: str, holder: str) -> dict[str, Any]:
    """What is stored of one that was just accepted."""
    return {
        "key": prediction.key,
        "id": prediction.id,
        "owner": prediction.owner,
        "origin": prediction.origin,
        "model": model,
        "created_s": prediction.created_at.timestamp(),
        "status": Status.STARTING,
        "holder": holder,
        "is_cancelled": False,
        "deaths": 0,
        "size_bytes": 0,
        "header": encode_header(prediction),
        "request": encode_request(request),
        "state": encode_state(prediction),
    }


def start_of(prediction: Prediction, prepared: Prepared | None, num_pieces: int) -> dict[str, Any]:
    """What is stored of one that goes to an engine after so many pieces; `prepared`: when that is new."""
    values: dict[str, Any] = {"submitted_after": num_pieces}
    if prepared is not None:
        values |= {"status": prediction.status, "request": encode_request(prepared), "state": encode_state(prediction)}
    return values


def end_of(prediction: Prediction) -> dict[str, Any]:
    """What is stored of one that has ended. The request is needed no more."""
    assert prediction.completed_at is not None
    return {
        "status": prediction.status,
        "holder": None,
        "ended_s": prediction.completed_at.timestamp(),
        "size_bytes": prediction.size_bytes,
        "request": b"",
        "state": encode_state(prediction),
    }


def _free(holder: str, model: str, but: Collection[str]) -> Select[str]:
    """The keys of what nobody holds, or this holder without knowing of it."""
    is_unknown = (PREDICTIONS.c.holder == holder) & PREDICTIONS.c.key.not_in(but)
    is_free = _IS_RUNNING & (PREDICTIONS.c.model == model) & (PREDICTIONS.c.holder.is_(None) | is_unknown)
    return select(PREDICTIONS.c.key).where(is_free)


def _row(found: Any) -> Row:
    return Row(**found._mapping)
