"""Group commit: changes and pieces of answers, from the event loop, into few transactions of one thread.

Whatever has come while a transaction was under way goes into the next. Pieces alone wait a moment, so that a commit is
shared by many of them. While the database fails, everything is kept and tried again; what can't wait is refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
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
Pieces = Mapping[str, tuple[int, list[Piece]]]  # of each prediction: how many came before, and the new ones


@dataclass(slots=True)
class _Change:
    """`is_patient`: it waits for a database that fails."""

    work: Callable[[Connection], Any]
    future: asyncio.Future[Any]
    is_patient: bool


@dataclass(slots=True)
class _Batch:
    """What goes into one transaction."""

    changes: list[_Change] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.changes or self.rows)

    def add(self, other: _Batch) -> None:
        self.changes += other.changes
        self.rows += other.rows


class Writer:
    """Belongs to the event loop that makes it. `on_lost` is called there when others took what this server held.

    The thread is given a batch at a time, so that to write a piece is to put it on a list.
    """

    def __init__(self, engine: Engine, journal: Journal, leases: Leases, on_lost: Callable[[], None]) -> None:
        self.is_failing = False
        self._engine = engine
        self._journal = journal
        self._leases = leases
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._news, self._urgent, self._closing = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._changes: list[_Change] = []
        self._pieces: dict[str, tuple[int, list[Piece]]] = {}
        self._counts: dict[str, int] = {}
        self._suspects: set[str] = set()
        self._told: list[Callable[[], None]] = []  # by the thread, to be called on the loop
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._running = asyncio.create_task(self._run())

    def change(self, work: Callable[[Connection], T], *, is_patient: bool = True) -> asyncio.Future[T]:
        """The result of `work`, once it is durable. Works are called in their order, and again after a failure.

        Raises, when awaited: what `work` does; StorageUnavailable if the database fails and there is no patience, and
        after the end; LeaseLost.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        if self._closing.is_set():
            future.set_exception(unavailable())
        else:
            self._changes.append(_Change(work, future, is_patient))
            self._wake(is_urgent=True)
        return future

    def begin(self, key: str, num_pieces: int, *, is_suspect: bool = False) -> None:
        """So many of its pieces are stored already. The next one of a suspect, which clears it, does not wait."""
        self._counts[key] = num_pieces
        if is_suspect:
            self._suspects.add(key)

    def num_pieces(self, key: str) -> int:
        """How many were written so far, stored or not."""
        if (waiting := self._pieces.get(key)) is not None:
            return waiting[0] + len(waiting[1])
        return self._counts.get(key, 0)

    def write(self, key: str, piece: Piece) -> None:
        """Durable soon, and not later than any change that comes after it; of one that was lost nothing is written."""
        if (waiting := self._pieces.get(key)) is not None:
            waiting[1].append(piece)
        elif (num_pieces := self._counts.get(key)) is not None:
            self._pieces[key] = num_pieces, [piece]
            self._wake(is_urgent=key in self._suspects)

    def finish(self, key: str) -> None:
        """There will be no more pieces; those that wait are written all the same."""
        self._counts.pop(key, None)
        self._suspects.discard(key)

    async def close(self) -> None:
        """Make one more attempt to write what has come, and end."""
        self._closing.set()
        self._wake(is_urgent=True)
        await self._running
        self._thread.shutdown(wait=False)

    def _wake(self, *, is_urgent: bool) -> None:
        self._news.set()
        if is_urgent:
            self._urgent.set()

    async def _run(self) -> None:
        batch = _Batch()
        while True:
            if batch:
                await _wait(self._closing, RETRY_S)
            else:
                await self._news.wait()
                await _wait(self._urgent, PIECES_WAIT_S)
            is_last = self._closing.is_set()
            batch.changes += self._changes
            self._changes = []
            batch = await self._loop.run_in_executor(self._thread, self._write, batch, self._take())
            told, self._told = self._told, []
            for tell in told:
                tell()
            if is_last:
                _raise(batch.changes, unavailable())
                return

    def _take(self) -> Pieces:
        """The pieces that wait."""
        self._news.clear()
        self._urgent.clear()
        pieces, self._pieces = self._pieces, {}
        self._counts |= {name: first + len(new) for name, (first, new) in pieces.items() if name in self._counts}
        self._suspects -= pieces.keys()
        return pieces

    def _lose(self) -> None:
        for known in (self._pieces, self._counts, self._suspects):
            known.clear()
        self._on_lost()

    def _write(self, batch: _Batch, pieces: Pieces) -> _Batch:
        """In the thread. Returns what is to be tried again."""
        batch.rows += [
            {"prediction_key": key, "first": first, "body": encode_pieces(new)} for key, (first, new) in pieces.items()
        ]
        return self._attempt(batch) if batch else batch

    def _attempt(self, batch: _Batch) -> _Batch:
        """One transaction. Returns what is to be tried again."""
        try:
            self._commit(batch)
        except LeaseLost as error:
            logger.warning("the journal: other servers took this one for dead, and have what it held")
            self._told += [partial(_raise, batch.changes, error), self._lose]
        except (OperationalError, InterfaceError, OSError) as error:
            return self._fail(batch, error)
        except Exception as error:
            if len(batch.changes) + bool(batch.rows) > 1:
                return self._one_by_one(batch)
            logger.exception("the journal: a change that can't be made")
            self._told.append(partial(_raise, batch.changes, error))
        return _Batch()

    def _commit(self, batch: _Batch) -> None:
        self._leases.enter()
        with self._engine.begin() as connection:
            self._leases.hold(connection)
            if batch.rows:
                self._journal.write(connection, batch.rows)
            results = [change.work(connection) for change in batch.changes]
        if self.is_failing:
            self.is_failing = False
            logger.warning("the journal: the database works again")
        self._told.append(partial(_succeed, batch.changes, results))

    def _one_by_one(self, batch: _Batch) -> _Batch:
        """One of them is at fault, and only who waits for that one is to be told. Their order stays.

        Returns what is to be tried again.
        """
        left = _Batch()
        for part in (_Batch(rows=batch.rows), *(_Batch([one]) for one in batch.changes)):
            if part:
                left.add(part if left else self._attempt(part))
        return left

    def _fail(self, batch: _Batch, error: Exception) -> _Batch:
        if not self.is_failing:
            self.is_failing = True
            logger.error("the journal: the database fails: %s", getattr(error, "orig", error))
        self._told.append(partial(_raise, [change for change in batch.changes if not change.is_patient], unavailable()))
        return _Batch([change for change in batch.changes if change.is_patient], batch.rows)


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()


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
