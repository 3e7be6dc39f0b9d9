"""Predictions: admit them, find them, end them, stop them when nobody reads, go on with those of a server that died.

The one owner of the jobs (job.py) that run them. Knows preparer and engine by what they do; knows no protocol.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from lavatube.errors import Conflict, Draining, InvalidInput, LavatubeError, NotFound
from lavatube.predictions.adoption import Adoption
from lavatube.predictions.gate import Gate
from lavatube.predictions.generation import Engine, Generator
from lavatube.predictions.job import Job, Workshop
from lavatube.predictions.limits import ServiceLimits
from lavatube.predictions.line import Line, Ticket
from lavatube.predictions.observers import Observer
from lavatube.predictions.owners import NO_LIMITS, OPERATOR, OwnerLimits
from lavatube.predictions.prediction import Prediction, new_id
from lavatube.predictions.preparation import Preparation, Prepares
from lavatube.predictions.records import Request
from lavatube.predictions.retention import Retention
from lavatube.predictions.scribe import Scribe
from lavatube.predictions.webhook import Webhook
from lavatube.prompt.chat import Chat, Generation
from lavatube.prompt.prepare import Estimate

logger = logging.getLogger(__name__)

DRAIN_RETRY_AFTER_S: Final = 10
AHEAD: Final = 4
CANCEL_WAIT_S: Final = 5.0


class PredictionService:
    """Creates, finds and ends predictions. Everything here belongs to the event loop that it is used from."""

    def __init__(
        self,
        preparer: Prepares,
        engine: Engine,
        limits: ServiceLimits,
        limits_of: Callable[[str], OwnerLimits] = lambda _: NO_LIMITS,
        scribe: Scribe | None = None,
    ) -> None:
        """`limits_of` says what an owner may use. Without a `scribe` no prediction outlives the server."""
        self.observers: list[Observer] = []
        self._limits = limits
        self._scribe = scribe
        self._line = Line(limits.max_running, limits.max_waiting, limits.max_waiting_bytes, limits_of)
        self._preparation = Preparation(preparer, limits.prepare_threads)
        self._workshop = Workshop(
            line=self._line,
            preparation=self._preparation,
            # A few wait in the engine itself, so that a row that gets free is taken in the very next step.
            gate=Gate(limits.max_running + math.ceil(limits.max_running / AHEAD)),
            generator=Generator(engine, is_sharing_caches=limits.is_sharing_caches),
            scribe=scribe,
            timeout_s=limits.timeout_s,
            observers=self.observers,
        )
        self._retention = Retention(limits.retention)
        self._jobs: dict[Prediction, Job] = {}
        self._readers: dict[Prediction, int] = {}
        self._is_draining = False
        self._adoption = None if scribe is None else Adoption(scribe, limits, self._readmit)
        if scribe is not None:
            scribe.on_lost = self._hand_over

    @property
    def is_busy(self) -> bool:
        """One more prediction would have to wait."""
        return self._line.is_busy

    @property
    def num_waiting(self) -> int:
        """Predictions for which there is no room to run yet."""
        return self._line.num_waiting

    @property
    def num_active(self) -> int:
        """Predictions that have not ended."""
        return len(self._jobs)

    @property
    def is_failing(self) -> bool:
        """The journal can't be written."""
        return self._scribe is not None and self._scribe.is_failing

    async def find(self, prediction_id: str, owner: str = OPERATOR) -> Prediction | None:
        """Another owner's is not there. Raises: StorageUnavailable."""
        known = self._retention.find(prediction_id, owner)
        if known is not None or self._scribe is None:
            return known
        stored = await self._scribe.find(prediction_id, owner)
        return self._retention.find(prediction_id, owner) or stored  # it may have been created meanwhile

    async def find_by_key(self, key: str) -> Prediction | None:
        """Anybody's, for a reader who is to show another secret than the owner's key. Raises: StorageUnavailable."""
        known = self._retention.find_by_key(key)
        return known if known is not None or self._scribe is None else await self._scribe.find_by_key(key)

    async def list(
        self, owner: str, origin: str, before: str | None, limit: int
    ) -> tuple[Sequence[Prediction], str | None]:
        """One owner's of one API, the newest first, and the cursor of what follows; `before` is such a cursor.

        Raises: InvalidInput, for a cursor of nothing that is there; StorageUnavailable.
        """
        if self._scribe is None:
            ids = self._retention.page(owner, origin, before, limit + 1)
        else:
            ids = await self._scribe.page(owner, origin, before, limit + 1)
        if ids is None:
            raise InvalidInput("There is nothing at this cursor.", param="cursor", remedy="Begin without one.")
        found = [await self.find(prediction_id, owner) for prediction_id in ids[:limit]]
        return [one for one in found if one is not None], ids[limit - 1] if len(ids) > limit else None

    async def get(self, prediction_id: str, owner: str = OPERATOR) -> Prediction:
        """Raises: NotFound, StorageUnavailable."""
        prediction = await self.find(prediction_id, owner)
        if prediction is None:
            raise NotFound(
                "There is no such prediction.",
                param="id",
                remedy="Finished predictions are kept for a while only.",
            )
        return prediction

    async def create(
        self,
        chat: Chat,
        generation: Generation,
        *,
        prediction_id: str | None = None,
        fingerprint: bytes = b"",
        is_detached: bool = False,
        is_kept: bool = True,
        is_journaled: bool = False,
        owner: str = "",
        origin: str = "",
        details: Mapping[str, Any] | None = None,
        webhook: Webhook | None = None,
        cancel_at: datetime | None = None,
        attachments: Mapping[str, str] | None = None,
    ) -> Prediction:
        """A new prediction, or the one that this id already means; one that failed for a passing reason is run anew.

        The flags are explained at Prediction. One that is journaled is durable when this returns, with its
        `attachments`: what a view will ask for by name, too large for the details. Others' are not kept.
        Raises: Conflict if the id means another request; Overloaded; Draining; StorageUnavailable.
        """
        known = await self._known(prediction_id, fingerprint, owner)
        if known is not None and (known in self._jobs or not known.is_worth_retrying):
            known.is_detached |= is_detached
            if (job := self._jobs.get(known)) is not None:
                await job.accepted()
            return known
        if self._is_draining:
            raise _draining("The server is shutting down and takes no new predictions.")
        is_journaled &= self._scribe is not None
        if is_journaled and generation.seed is None:  # if it must be begun anew, it is to come out the same
            generation = replace(generation, seed=secrets.randbits(31))
        size_bytes = sum(len(image.source) for image in chat.images)
        ticket = self._line.enter(size_bytes, owner, cost=generation.num_choices)
        if known is not None:
            self._retention.drop(known)
        key = new_id()
        prediction = Prediction(
            prediction_id or key,
            key=key,
            fingerprint=fingerprint,
            is_detached=is_detached,
            is_kept=is_kept,
            is_journaled=is_journaled,
            owner=owner,
            origin=origin,
            details=details,
            webhook=webhook,
            cancel_at=cancel_at,
            num_choices=generation.num_choices,
        )
        job, request = self._add(prediction, ticket), Request(chat, generation, attachments or {})
        if is_journaled:
            try:
                await job.accept(request, replaces=None if known is None else known.key)
            except Conflict:  # another server has this id since a moment ago
                known = await self._known(prediction_id, fingerprint, owner)
                if known is None:
                    raise
                return known
        else:
            job.begin(request)
        return prediction

    async def attachment(self, prediction: Prediction, name: str) -> str | None:
        """What was kept with a journaled prediction. Raises: StorageUnavailable."""
        return None if self._scribe is None else await self._scribe.attachment(prediction.key, name)

    async def _known(self, prediction_id: str | None, fingerprint: bytes, owner: str) -> Prediction | None:
        """What this id means already. Raises: Conflict if that is another request; StorageUnavailable."""
        known = None if prediction_id is None else await self.find(prediction_id, owner)
        if known is not None and known.fingerprint != fingerprint:
            raise Conflict("This id was used for another request.", param="id", remedy="Choose a new id.")
        return known

    async def estimate(self, chat: Chat, sizes: Sequence[tuple[int, int]]) -> Estimate:
        """See Preparation.estimate."""
        return await self._preparation.estimate(chat, sizes)

    def cancel(self, prediction: Prediction) -> bool:
        """End it now; its engine request is aborted at the next step. False if it does not run here (any more)."""
        job = self._jobs.get(prediction)
        if job is None or prediction.is_over:
            return False
        job.end()
        return True

    async def cancel_anywhere(self, prediction: Prediction) -> bool:
        """The same for one that may run on another server. False if it had ended. Raises: StorageUnavailable.

        What is journaled is cancelled for good when this returns.
        """
        if prediction.is_over:
            return False
        if not self.cancel(prediction):
            assert self._scribe is not None, "without a journal everything runs here"
            await self._scribe.cancel(prediction.key)
        if prediction.is_journaled:
            await prediction.wait(CANCEL_WAIT_S)
        return True

    async def delete(self, prediction: Prediction) -> None:
        """End it, if it runs, and forget it. Raises: StorageUnavailable."""
        self.cancel(prediction)
        if (job := self._jobs.get(prediction)) is not None:
            await job.wait()
        self._retention.drop(prediction)
        if prediction.is_journaled and self._scribe is not None:
            await self._scribe.forget(prediction.key)

    @contextmanager
    def attached(self, prediction: Prediction) -> Iterator[None]:
        """Read a prediction: when the last reader of one that is not detached leaves, it is cancelled."""
        self._readers[prediction] = self._readers.get(prediction, 0) + 1
        try:
            yield
        finally:
            self._readers[prediction] -= 1
            if not self._readers[prediction]:
                del self._readers[prediction]
                if not prediction.is_detached and self.cancel(prediction):
                    logger.info("prediction %s: its last reader left", prediction.id)

    async def adopt(self) -> None:
        """Go on with what no server has any more, as far as there is room. Raises: StorageUnavailable, LeaseLost."""
        if self._scribe is None or self._adoption is None or self._is_draining:
            return
        held = [prediction.key for prediction in self._jobs if prediction.is_journaled]
        await self._adoption.adopt(held, self._line.num_free)
        for key in await self._scribe.cancelled():
            if (prediction := self._retention.find_by_key(key)) is not None:
                self.cancel(prediction)

    async def drain(self, grace_s: float) -> None:
        """Take nothing new, let what runs finish for `grace_s`, then hand the rest over, or end it as failed."""
        self._is_draining = True
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._until_idle()
        for job in list(self._jobs.values()):
            with suppress(LavatubeError):  # told to whoever asked
                await job.accepted()
        self._hand_over()
        for job in self._jobs.values():
            if not (job.prediction.is_over or job.is_handed_over):
                job.end(_draining("The server shut down before this prediction was finished."))
        await self._until_idle()
        if self._scribe is not None:
            await self._scribe.release()
        self._preparation.close()

    async def _until_idle(self) -> None:
        while self._jobs:
            await next(iter(self._jobs.values())).wait()

    def _add(self, prediction: Prediction, ticket: Ticket) -> Job:
        self._retention.add(prediction)
        job = self._jobs[prediction] = Job(prediction, ticket, self._workshop, self._finish)
        return job

    def _finish(self, job: Job) -> None:
        """It has its end; or it was never accepted, or goes on elsewhere, and is forgotten here."""
        prediction = job.prediction
        del self._jobs[prediction]
        if prediction.status.is_terminal:
            self._retention.finish(prediction)
            outcome = prediction.error.code if prediction.error else str(prediction.status)
        else:
            prediction.release()
            outcome = "handed over" if job.has_begun else "not accepted"
        if job.is_stored or not (prediction.is_kept and prediction.status.is_terminal):
            self._retention.drop(prediction)  # what is in the journal is read there: others may have deleted it
        for observer in self.observers if job.has_begun else ():
            (observer.ended if prediction.status.is_terminal else observer.released)(prediction)
        logger.info("prediction %s: %s", prediction.id, outcome)

    def _hand_over(self) -> None:
        """Whoever holds the journaled ones from now on goes on with them."""
        for job in self._jobs.values():
            if job.prediction.is_journaled:
                job.hand_over()

    def _readmit(self, prediction: Prediction) -> Job:
        return self._add(prediction, self._line.readmit(prediction.owner, cost=prediction.num_choices))


def _draining(message: str) -> Draining:
    return Draining(message, remedy="Try again in a moment.", retry_after_s=DRAIN_RETRY_AFTER_S)
