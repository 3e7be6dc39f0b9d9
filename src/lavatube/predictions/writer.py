"""Group commit: changes and pieces of answers, from the event loop, into few transactions of one thread.

Whatever has come while a transaction was under way goes into the next. Pieces alone wait a moment, so that a commit is
shared by many of them. While the database fails, everything is kept and tried again; what can't wait is refused.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import InterfaceError, OperationalError

from lavatube.errors import StorageUnavailable
from lavatube.predictions.journal import Journal
from lavatube.predictions.leases import LeaseLost, Leases
from lavatube.predictions.records import Piece, encode_pieces

logger = logging.getLogger(__name__)

PIECES_WAIT_S: Final = 0.1
RETRY_S: Final = 0.5
RETRY_AFTER_S: Final = 5

T = TypeVar("T")


@dataclass(slots=True)
class _Change:
    """`is_patient`: it waits for a database that fails."""

    work: Callable[[Connection], Any]
    future: asyncio.Future[Any]
    is_patient: bool


@dataclass(slots=True)
class _Batch:
    """What goes into one transaction. `absolved` are those that have written something for the first time."""

    changes: list[_Change] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    absolved: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.changes or self.rows)

    def add(self, other: _Batch) -> None:
        self.changes += other.changes
        self.rows += other.rows
        self.absolved |= other.absolved


class Writer:
    """Belongs to the event loop that makes it. `on_lost` is called there when others took what this server held."""

    def __init__(self, engine: Engine, journal: Journal, leases: Leases, on_lost: Callable[[], None]) -> None:
        self.is_failing = False
        self._engine = engine
        self._journal = journal
        self._leases = leases
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._news = threading.Condition()
        self._changes: list[_Change] = []
        self._pieces: dict[str, tuple[int, list[Piece]]] = {}  # how many came before, and the new ones
        self._counts: dict[str, int] = {}
        self._suspects: set[str] = set()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    async def change(self, work: Callable[[Connection], T], *, is_patient: bool = True) -> T:
        """The result of `work`, once it is durable. Works are called in their order, and again after a failure.

        Raises: what `work` does; StorageUnavailable if the database fails and there is no patience; LeaseLost.
        """
        change = _Change(work, self._loop.create_future(), is_patient)
        with self._news:
            if self._is_closing:
                raise unavailable()
            self._changes.append(change)
            self._news.notify()
        result: T = await change.future
        return result

    def begin(self, prediction_id: str, num_pieces: int) -> None:
        """So many of its pieces are stored already. It is a suspect until the next one is."""
        with self._news:
            self._counts[prediction_id] = num_pieces
            self._suspects.add(prediction_id)

    def write(self, prediction_id: str, piece: Piece) -> None:
        """Durable soon, and not later than any change that comes after it; of one that was lost nothing is written."""
        with self._news:
            if prediction_id not in self._counts:
                return
            is_awaited = not self._pieces or prediction_id in self._suspects
            self._pieces.setdefault(prediction_id, (self._counts[prediction_id], []))[1].append(piece)
            self._counts[prediction_id] += 1
            if is_awaited:
                self._news.notify()

    def finish(self, prediction_id: str) -> None:
        """There will be no more pieces; those that wait are written all the same."""
        with self._news:
            self._counts.pop(prediction_id, None)
            self._suspects.discard(prediction_id)

    def close(self) -> None:
        """Make one more attempt to write what has come, and end. Blocking."""
        with self._news:
            self._is_closing = True
            self._news.notify()
        self._thread.join()

    def _run(self) -> None:
        batch = _Batch()
        while True:
            is_last = self._collect(batch)
            if batch:
                batch = self._attempt(batch)
            if is_last:
                self._tell(batch.changes, unavailable())
                return
            if batch:
                with self._news:
                    self._news.wait_for(lambda: self._is_closing, RETRY_S)

    def _collect(self, batch: _Batch) -> bool:
        """Wait for something to do, and put it to what is left. True if nothing comes after it."""
        with self._news:
            if not batch:
                self._news.wait_for(lambda: self._changes or self._pieces or self._is_closing)
                self._news.wait_for(self._is_urgent, PIECES_WAIT_S)
            batch.changes += self._changes
            self._changes = []
            pieces, self._pieces = self._pieces, {}
            batch.absolved |= self._suspects & pieces.keys()
            self._suspects -= pieces.keys()
            is_closing = self._is_closing
        batch.rows += [
            {"prediction_id": name, "first": first, "body": encode_pieces(new)} for name, (first, new) in pieces.items()
        ]
        return is_closing

    def _is_urgent(self) -> bool:
        return bool(self._changes) or self._is_closing or not self._suspects.isdisjoint(self._pieces)

    def _attempt(self, batch: _Batch) -> _Batch:
        """One transaction. Returns what is to be tried again."""
        try:
            self._commit(batch)
        except LeaseLost as error:
            logger.warning("the journal: other servers took this one for dead, and have what it held")
            with self._news:
                for known in (self._pieces, self._counts, self._suspects):
                    known.clear()
            self._tell(batch.changes, error)
            self._call(self._on_lost)
        except (OperationalError, InterfaceError, OSError) as error:
            return self._fail(batch, error)
        except Exception as error:
            if len(batch.changes) + bool(batch.rows) > 1:
                return self._one_by_one(batch)
            logger.exception("the journal: a change that can't be made")
            self._tell(batch.changes, error)
        return _Batch()

    def _commit(self, batch: _Batch) -> None:
        self._leases.enter()
        with self._engine.begin() as connection:
            self._leases.hold(connection)
            if batch.rows:
                self._journal.write(connection, batch.rows)
            if batch.absolved:
                self._journal.absolve(connection, batch.absolved)
            results = [change.work(connection) for change in batch.changes]
        if self.is_failing:
            self.is_failing = False
            logger.warning("the journal: the database works again")
        self._call(_succeed, batch.changes, results)

    def _one_by_one(self, batch: _Batch) -> _Batch:
        """One of them is at fault, and only who waits for that one is to be told. Their order stays.

        Returns what is to be tried again.
        """
        left = _Batch()
        for part in (_Batch(rows=batch.rows, absolved=batch.absolved), *(_Batch([one]) for one in batch.changes)):
            if part:
                left.add(part if left else self._attempt(part))
        return left

    def _fail(self, batch: _Batch, error: Exception) -> _Batch:
        if not self.is_failing:
            self.is_failing = True
            logger.error("the journal: the database fails: %s", getattr(error, "orig", error))
        self._tell([change for change in batch.changes if not change.is_patient], unavailable())
        return _Batch([change for change in batch.changes if change.is_patient], batch.rows, batch.absolved)

    def _tell(self, changes: list[_Change], error: Exception) -> None:
        if changes:
            self._call(_raise, changes, error)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop has ended: there is nobody left to tell
            self._loop.call_soon_threadsafe(function, *arguments)


def unavailable() -> StorageUnavailable:
    return StorageUnavailable(
        "The database can't be written at the moment.",
        remedy="Try again in a moment, or ask for an answer on this connection.",
        retry_after_s=RETRY_AFTER_S,
    )


def _succeed(changes: list[_Change], results: list[Any]) -> None:
    for change, result in zip(changes, results, strict=True):
        if not change.future.done():
            change.future.set_result(result)


def _raise(changes: list[_Change], error: Exception) -> None:
    for change in changes:
        if not change.future.done():
            change.future.set_exception(error)
