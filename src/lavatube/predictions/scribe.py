"""The journal as the event loop sees it: what is awaited is durable; what others hold is read, and followed.

One for each server. Foreign errors of the database become ours here.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary, ref

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from lavatube.errors import Conflict, StorageUnavailable
from lavatube.predictions.attachments import Attachments
from lavatube.predictions.journal import Journal, Stored, end_of, row_of, start_of
from lavatube.predictions.leases import BEAT_S, LeaseLost, Leases
from lavatube.predictions.outbox import Delivery, Outbox
from lavatube.predictions.prediction import Prediction
from lavatube.predictions.records import Piece, Request, catch_up, restore
from lavatube.predictions.writer import Writer, unavailable
from lavatube.prompt.prepare import Prepared

logger = logging.getLogger(__name__)

ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")  # others are nobody's, and not every database could be asked for them
FOLLOW_S: Final = 0.25
END_PATIENCE_S: Final = 5.0
SWEEP_S: Final = 60.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class JournalLimits:
    """How long and how much of what has ended is kept; whatever is reached first forgets the oldest."""

    max_age_s: float = 7 * 24 * 3600.0
    max_bytes: int = 1024 * 1024 * 1024


class Scribe:
    """`model` names what this server serves: predictions of other models are not its own to run.

    `last_word` is what a webhook is to be told of a prediction that has ended.
    """

    def __init__(
        self,
        engine: Engine,
        outbox: Outbox,
        leases: Leases,
        *,
        last_word: Callable[[Prediction], Delivery | None] = lambda _: None,
        model: str = "",
        limits: JournalLimits | None = None,
    ) -> None:
        self.on_lost: Callable[[], None] = lambda: None
        self._journal = Journal(engine)
        self._attachments = Attachments(engine)
        self._outbox = outbox
        self._leases = leases
        self._writer = Writer(engine, self._journal, self._leases, lambda: self.on_lost())
        self._last_word = last_word
        self._model = model
        self._limits = limits or JournalLimits()
        self._found: WeakValueDictionary[str, Prediction] = WeakValueDictionary()
        self._tasks: set[asyncio.Future[Any]] = set()
        self._beat_s = self._swept_s = float("-inf")

    @property
    def is_failing(self) -> bool:
        """The database can't be written."""
        return self._writer.is_failing

    async def accept(self, prediction: Prediction, request: Request, *, replaces: str | None = None) -> None:
        """Raises: Conflict if the id is in use; StorageUnavailable, and then there will be no such prediction."""

        def work(connection: Connection) -> bool:
            values = row_of(prediction, request, self._model, self._leases.holder)
            is_new = self._journal.accept(connection, values, replaces=replaces)
            if is_new:
                self._attachments.add(connection, prediction.key, request.attachments)
            return is_new

        try:
            is_new = await self._writer.change(work, is_patient=False)
        except LeaseLost:
            raise unavailable() from None
        except StorageUnavailable:  # it may have been committed all the same
            self._keep(asyncio.create_task(self._withdraw(prediction.key)))
            raise
        if not is_new:
            raise Conflict("This id was used a moment ago.", param="id", remedy="Send the request again.")
        self._writer.begin(prediction.key, 0)

    async def submit(self, prediction: Prediction, prepared: Prepared | None) -> None:
        """It goes to an engine, and nobody reads a word of it before this is stored. `prepared`: when that is new.

        Raises: LeaseLost, also where only this prediction was lost.
        """
        values = start_of(prediction, prepared, self._writer.num_pieces(prediction.key))

        def work(connection: Connection) -> bool:
            return self._journal.change(connection, prediction.key, self._leases.holder, values)

        if not await self._writer.change(work):
            self._writer.finish(prediction.key)
            raise LeaseLost

    def write(self, prediction: Prediction, piece: Piece) -> None:
        self._writer.write(prediction.key, piece)

    async def end(self, prediction: Prediction) -> bool:
        """Store the end that was decided, and what its webhook is to be told, in one transaction.

        While the database fails this returns False after END_PATIENCE_S, and both are stored later. Raises: LeaseLost,
        also where only this prediction was lost, or was deleted.
        """
        ended = prediction.as_ended()
        values, delivery = end_of(ended), self._last_word(ended)

        def work(connection: Connection) -> bool:
            is_ours = self._journal.change(connection, prediction.key, self._leases.holder, values)
            if is_ours and delivery is not None:
                self._outbox.store(connection, delivery)
            return is_ours

        storing = self._writer.change(work)
        await asyncio.wait({storing}, timeout=END_PATIENCE_S)
        self._writer.finish(prediction.key)
        if storing.done():
            if not storing.result():
                raise LeaseLost
            return True
        logger.warning("prediction %s: its end is shown before it is stored", prediction.id)
        self._keep(storing)
        return False

    async def find(self, prediction_id: str, owner: str) -> Prediction | None:
        """One that is not in this server's memory; as long as it is read, it is kept up to date."""
        if not ID.fullmatch(prediction_id):
            return None
        return self._restore(await self._read(lambda: self._journal.find(prediction_id, owner)))

    async def find_by_key(self, key: str) -> Prediction | None:
        """The same."""
        return self._restore(await self._read(lambda: self._journal.find_by_key(key)))

    async def attachment(self, key: str, name: str) -> str | None:
        """See Request."""
        return await self._read(lambda: self._attachments.find(key, name))

    async def page(self, owner: str, origin: str, before: str | None, limit: int) -> list[str] | None:
        """See Journal.page."""
        if before is not None and not ID.fullmatch(before):
            return None
        return await self._read(lambda: self._journal.page(owner, origin, before, limit))

    async def cancel(self, key: str) -> None:
        """Of another server's: its holder ends it."""
        await self._writer.change(lambda connection: self._journal.cancel(connection, key), is_patient=False)

    async def cancelled(self) -> list[str]:
        """The keys of those held here that were cancelled through another server."""
        return await self._read(lambda: self._journal.cancelled(self._leases.holder))

    async def forget(self, key: str) -> None:
        await self._writer.change(lambda connection: self._journal.forget(connection, [key]))

    async def _withdraw(self, key: str) -> None:
        await self._writer.change(lambda connection: self._journal.withdraw(connection, key, self._leases.holder))

    async def adopt(self, held: Collection[str], limit: int) -> list[Stored]:
        """Take on what is nobody's, also that of servers that have died meanwhile, but for the keys held here."""
        for server_id, beats in await self._read(self._leases.dead):
            if await self._writer.change(partial(self._bury, server_id=server_id, beats=beats)):
                logger.warning("another server has died: what it had is taken on")
        holder = self._leases.holder
        if not limit or not await self._read(lambda: self._journal.has_free(holder, self._model, held)):
            return []
        rows = await self._writer.change(
            lambda connection: self._journal.adopt(connection, self._leases.holder, self._model, held, limit)
        )
        stored = [(row, await self._read(partial(self._journal.pieces, row.key))) for row in rows]
        for row, pieces in stored:
            self._writer.begin(row.key, len(pieces), is_suspect=row.deaths > 0)
        return stored

    async def keep_up(self) -> None:
        """To be called every second or so: show that this server lives, forget what is old. Raises: LeaseLost."""
        now_s = time.monotonic()
        if now_s - self._beat_s >= BEAT_S:
            self._beat_s = now_s
            await self._writer.change(lambda _: None)
        if now_s - self._swept_s >= SWEEP_S:
            self._swept_s = now_s
            before_s = time.time() - self._limits.max_age_s
            await self._writer.change(
                lambda connection: self._journal.forget_old(connection, before_s, self._limits.max_bytes)
            )

    async def release(self) -> None:
        """What was not finished here may be taken on elsewhere; whatever the database says."""
        try:
            await self._writer.change(
                lambda connection: self._journal.free(connection, self._leases.holder, has_died=False),
                is_patient=False,
            )
        except (StorageUnavailable, LeaseLost):
            logger.warning("what runs is not handed over; others find out that this server has gone")

    async def close(self) -> None:
        """Leave the servers. What still waits to be written gets one more attempt. Raises: StorageUnavailable."""
        for task in self._tasks:
            task.cancel()
        try:
            await self._writer.change(self._leave, is_patient=False)
        finally:
            await self._writer.close()

    def _keep(self, task: asyncio.Future[Any]) -> None:
        """What nobody waits for."""
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("the journal: %r", error)

    def _bury(self, connection: Connection, server_id: str, beats: int) -> bool:
        if not self._leases.bury(connection, server_id, beats):
            return False
        self._journal.free(connection, server_id, has_died=True)
        self._outbox.free(connection, server_id)
        return True

    def _leave(self, connection: Connection) -> None:
        self._outbox.free(connection, self._leases.holder)
        self._leases.leave(connection)

    def _restore(self, stored: Stored | None) -> Prediction | None:
        """The same object for whoever reads it meanwhile."""
        if stored is None:
            return None
        row, pieces = stored
        if (known := self._found.get(row.key)) is not None:
            return known
        prediction = self._found[row.key] = restore(row, pieces)
        if not prediction.status.is_terminal:
            self._keep(asyncio.create_task(self._follow(ref(prediction), row.key, len(pieces))))
        return prediction

    async def _follow(self, prediction: ref[Prediction], key: str, num_pieces: int) -> None:
        """Until it ends, or nobody wants to know."""
        while True:
            await asyncio.sleep(FOLLOW_S)
            if (followed := prediction()) is None:
                return
            try:
                stored = await self._read(partial(self._journal.find_by_key, key, num_pieces))
            except StorageUnavailable:
                continue
            if stored is None:
                followed.release()
                return
            row, pieces = stored
            catch_up(followed, row, pieces)
            if followed.status.is_terminal:
                return
            num_pieces += len(pieces)
            del followed

    async def _read(self, work: Callable[[], T]) -> T:
        """Raises: StorageUnavailable."""
        try:
            return await asyncio.to_thread(work)
        except SQLAlchemyError as error:
            logger.warning("the journal can't be read: %s", getattr(error, "orig", error))
            raise unavailable() from None
