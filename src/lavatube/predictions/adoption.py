"""What no server has any more is taken on here, and gone on with where it was, or failed with the reason."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

import msgspec

from lavatube.errors import EngineCrashPoison, LavatubeError, ServerDied
from lavatube.predictions.events import Status
from lavatube.predictions.job import Job
from lavatube.predictions.limits import ServiceLimits
from lavatube.predictions.prediction import Prediction
from lavatube.predictions.records import Piece, Row, decode_request, restore
from lavatube.predictions.scribe import Scribe

logger = logging.getLogger(__name__)


class Adoption:
    """`readmit` makes the job of a prediction that was let in before."""

    def __init__(self, scribe: Scribe, limits: ServiceLimits, readmit: Callable[[Prediction], Job]) -> None:
        self._scribe = scribe
        self._limits = limits
        self._readmit = readmit
        self._unreadable: set[str] = set()

    async def adopt(self, held: Collection[str], limit: int) -> None:
        """Up to so many, but for the keys of what runs here anyway. Raises: StorageUnavailable, LeaseLost."""
        for row, pieces in await self._scribe.adopt([*held, *self._unreadable], limit):
            try:
                self._resume(row, pieces)
            except msgspec.DecodeError:
                logger.exception("prediction %s: it can't be read; was it stored by another version?", row.id)
                self._unreadable.add(row.key)

    def _resume(self, row: Row, pieces: Sequence[Piece]) -> None:
        """Go on with what another server has begun, or this one in a life before."""
        prediction, order = restore(row, pieces), decode_request(row.request)
        job = self._readmit(prediction)
        job.is_suspect = row.deaths > 0
        if row.is_cancelled:
            job.end()
        elif (error := self._refusal(row)) is not None:
            job.end(error)
        logger.info("prediction %s: goes on after %d pieces", prediction.id, len(pieces))
        job.begin(order, pieces)

    def _refusal(self, row: Row) -> LavatubeError | None:
        """Why it is not gone on with."""
        if row.deaths >= self._limits.max_deaths:
            died = f"The server died {row.deaths} times while it worked on this prediction."
            return EngineCrashPoison(died, remedy="Change the request; as it is, it is not tried again.")
        if row.status == Status.PROCESSING and not self._limits.is_going_on:
            died = "The server died while it worked on this prediction."
            return ServerDied(died, remedy="Send the request again.")
        return None
