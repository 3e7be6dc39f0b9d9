"""Predictions from request to end: admit, prepare in a thread, generate, write to the log, stop when nobody reads.

The one owner of running predictions: one asyncio task each. Knows the preparer and the engine by what they do; knows no
protocol.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Protocol

import msgspec

from lavatube.errors import (
    Conflict,
    DeadlineExceeded,
    Draining,
    EngineCrashPoison,
    InternalError,
    InvalidInput,
    LavatubeError,
    NotFound,
    ServerDied,
    StorageUnavailable,
)
from lavatube.predictions.answer import Answer
from lavatube.predictions.events import Status
from lavatube.predictions.gate import Gate
from lavatube.predictions.generation import Engine, Generator
from lavatube.predictions.leases import LeaseLost
from lavatube.predictions.line import Line, Ticket
from lavatube.predictions.observers import Observer
from lavatube.predictions.owners import NO_LIMITS, OPERATOR, OwnerLimits
from lavatube.predictions.prediction import Prediction, new_id
from lavatube.predictions.records import Piece, Request, Row, decode_request, restore
from lavatube.predictions.retention import Retention, RetentionLimits
from lavatube.predictions.scribe import Scribe
from lavatube.predictions.webhook import Webhook
from lavatube.prompt.chat import Chat, Generation
from lavatube.prompt.prepare import Estimate, Prepared
from lavatube.prompt.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

DRAIN_RETRY_AFTER_S: Final = 10
AHEAD: Final = 4
CANCEL_WAIT_S: Final = 5.0


class Prepares(Protocol):
    """What the service asks of prompt.prepare.Preparer: blocking, from several threads at once."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    def prepare(self, chat: Chat, generation: Generation) -> Prepared: ...

    def estimate(self, chat: Chat, sizes: Sequence[tuple[int, int]]) -> Estimate: ...


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """How much is taken on at once, and for how long; and whether owners find each other's work in the caches.

    What ran when a server died goes on if that `is_going_on`, and unless it was in the engine and silent at so many
    deaths.
    """

    max_running: int = 16
    max_waiting: int = 64
    max_waiting_bytes: int = 256 * 1024 * 1024
    timeout_s: float = 600.0
    prepare_threads: int = 16
    is_sharing_caches: bool = False
    is_going_on: bool = True
    max_deaths: int = 2
    retention: RetentionLimits = field(default_factory=RetentionLimits)


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
        self._preparer = preparer
        self._limits = limits
        self._line = Line(limits.max_running, limits.max_waiting, limits.max_waiting_bytes, limits_of)
        self._scribe = scribe
        self._generator = Generator(engine, self, is_sharing_caches=limits.is_sharing_caches)
        # A few wait in the engine itself, so that a row that gets free is taken in the very next step.
        self._engine_gate = Gate(limits.max_running + math.ceil(limits.max_running / AHEAD))
        self._prepare_gate, self._fetch_gate = Gate(limits.prepare_threads), Gate(limits.prepare_threads)
        self._retention = Retention(limits.retention)
        self._threads = ThreadPoolExecutor(limits.prepare_threads, thread_name_prefix="prepare")
        self._fetchers = ThreadPoolExecutor(limits.prepare_threads, thread_name_prefix="fetch")
        self._preparing: dict[Prediction, Future[Prepared]] = {}
        self._tasks: dict[Prediction, asyncio.Task[None]] = {}
        self._acceptances: dict[Prediction, asyncio.Future[bool]] = {}
        self._settling: dict[Prediction, asyncio.Task[None]] = {}
        self._unstored: dict[Prediction, Prepared] = {}
        self._handed_over: set[Prediction] = set()
        self._suspects: set[Prediction] = set()
        self._readers: dict[Prediction, int] = {}
        self._is_draining = False
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
        return len(self._tasks)

    async def find(self, prediction_id: str, owner: str = OPERATOR) -> Prediction | None:
        """Another owner's is not there. Raises: StorageUnavailable."""
        prediction = await self.find_anyones(prediction_id)
        return None if prediction is None or prediction.owner != owner else prediction

    async def find_anyones(self, prediction_id: str) -> Prediction | None:
        """For a reader who is to show another secret than the owner's key. Raises: StorageUnavailable."""
        prediction = self._retention.find(prediction_id)
        if prediction is not None or self._scribe is None:
            return prediction
        return await self._scribe.find(prediction_id)

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
    ) -> Prediction:
        """A new prediction, or the one that this id already means; one that failed for a passing reason is run anew.

        The flags are explained at Prediction. One that is journaled is durable when this returns.
        Raises: Conflict if the id means another request; Overloaded; Draining; StorageUnavailable.
        """
        known = None if prediction_id is None else await self.find_anyones(prediction_id)
        if known is not None and (known.fingerprint != fingerprint or known.owner != owner):
            raise Conflict("This id was used for another request.", param="id", remedy="Choose a new id.")
        if known is not None and (known in self._tasks or not known.is_worth_retrying):
            known.is_detached |= is_detached
            if (acceptance := self._acceptances.get(known)) is not None:
                await asyncio.shield(acceptance)
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
        prediction = Prediction(
            prediction_id or new_id(),
            fingerprint=fingerprint,
            is_detached=is_detached,
            is_kept=is_kept,
            is_journaled=is_journaled,
            owner=owner,
            origin=origin,
            details=details,
            webhook=webhook,
            num_choices=generation.num_choices,
        )
        self._retention.add(prediction)
        request = Request(chat, generation)
        if not is_journaled:
            self._begin(prediction, request, ticket)
        elif not await self._accept(prediction, request, ticket, replaces=known is not None):
            raise Conflict("This id was used a moment ago.", param="id", remedy="Send the request again.")
        return prediction

    async def _accept(self, prediction: Prediction, request: Request, ticket: Ticket, *, replaces: bool) -> bool:
        """Whether it is durable, and runs; False if another server has this id. Raises: StorageUnavailable."""
        assert self._scribe is not None
        acceptance = asyncio.ensure_future(self._scribe.accept(prediction, request, replaces=replaces))
        self._acceptances[prediction] = acceptance
        acceptance.add_done_callback(partial(self._accepted, prediction, request, ticket))
        return await asyncio.shield(acceptance)  # it counts even if whoever asked has gone

    def _accepted(
        self, prediction: Prediction, request: Request, ticket: Ticket, acceptance: asyncio.Future[bool]
    ) -> None:
        del self._acceptances[prediction]
        if not acceptance.cancelled() and acceptance.exception() is None and acceptance.result():
            self._begin(prediction, request, ticket)
        else:
            self._line.leave(ticket, None)
            self._retention.drop(prediction)

    def _begin(
        self, prediction: Prediction, order: Request | Prepared, ticket: Ticket, pieces: Sequence[Piece] = ()
    ) -> None:
        for observer in self.observers:
            observer.created(prediction)
        task = asyncio.create_task(self._run(prediction, order, ticket, pieces), name=prediction.id)
        self._tasks[prediction] = task
        task.add_done_callback(partial(self._finish, prediction, ticket))
        if prediction.is_over:  # it was cancelled before it could begin
            task.cancel()

    async def estimate(self, chat: Chat, sizes: Sequence[tuple[int, int]]) -> Estimate:
        """What a conversation would cost, with pictures of these sizes. Raises: RequestErrors."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._preparer.estimate, chat, sizes)

    def cancel(self, prediction: Prediction) -> bool:
        """End it now; its engine request is aborted at the next step. False if it does not run here any more."""
        if prediction.is_over or not (prediction in self._tasks or prediction in self._acceptances):
            return False
        prediction.cancel()
        if (task := self._tasks.get(prediction)) is not None:
            task.cancel()
        return True

    async def cancel_anywhere(self, prediction: Prediction) -> bool:
        """The same for one that may run on another server; when this returns it can be seen. False if it had ended.

        Raises: StorageUnavailable.
        """
        if prediction.is_over:
            return False
        if not self.cancel(prediction):
            assert self._scribe is not None, "without a journal everything runs here"
            await self._scribe.cancel(prediction.id)
        await prediction.wait(CANCEL_WAIT_S if prediction.is_journaled else 0)
        return True

    async def delete(self, prediction: Prediction) -> None:
        """End it, if it runs, and forget it. Raises: StorageUnavailable."""
        prediction.is_kept = False
        self.cancel(prediction)
        if (task := self._tasks.get(prediction)) is not None:
            await asyncio.wait({task})
        if (settling := self._settling.get(prediction)) is not None:
            await asyncio.wait({settling})
        self._retention.drop(prediction)
        if prediction.is_journaled and self._scribe is not None:
            await self._scribe.forget(prediction.id)

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
                    logger.info("prediction %s: cancelled, its last reader left", prediction.id)

    async def adopt(self) -> None:
        """Go on with what no server has any more, as far as there is room. Raises: StorageUnavailable, LeaseLost."""
        if self._scribe is None or self._is_draining:
            return
        held = [one.id for one in (*self._acceptances, *self._tasks, *self._settling) if one.is_journaled]
        for row, pieces in await self._scribe.adopt(held, self._line.num_free):
            self._resume(row, pieces)
        for prediction_id in await self._scribe.cancelled():
            if (prediction := self._retention.find(prediction_id)) is not None:
                self.cancel(prediction)

    async def drain(self, grace_s: float) -> None:
        """Take nothing new, let what runs finish for `grace_s`, then hand the rest over, or end it as failed."""
        self._is_draining = True
        if self._acceptances:
            await asyncio.wait(list(self._acceptances.values()))
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()), timeout=grace_s)
        self._hand_over()
        for prediction, task in list(self._tasks.items()):
            _fail(prediction, _draining("The server shut down before this prediction was finished."))
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))
        while self._settling:
            await asyncio.wait(list(self._settling.values()))
        if self._scribe is not None:
            await self._scribe.release()
        for threads in (self._threads, self._fetchers):
            threads.shutdown(wait=False, cancel_futures=True)

    async def submitting(self, prediction: Prediction) -> None:
        """As the generator's listener."""
        if prediction.is_journaled and self._scribe is not None:
            await self._scribe.submit(prediction, self._unstored.pop(prediction, None))

    def written(self, prediction: Prediction, piece: Piece) -> None:
        """As the generator's listener."""
        if prediction.is_journaled and self._scribe is not None:
            self._scribe.write(prediction, piece)
        if piece.reason is None:
            for observer in self.observers:
                observer.written(prediction)

    def _hand_over(self) -> None:
        """Whoever holds the journaled ones from now on goes on with them."""
        for prediction, task in self._tasks.items():
            if prediction.is_journaled and not prediction.is_over:
                self._handed_over.add(prediction)
                task.cancel()

    def _resume(self, row: Row, pieces: Sequence[Piece]) -> None:
        prediction = restore(row, pieces)
        ticket = self._line.readmit(prediction.owner, cost=prediction.num_choices)
        self._retention.add(prediction)
        try:
            order = decode_request(row.request)
        except msgspec.DecodeError:
            logger.exception("prediction %s: its request can't be read", prediction.id)
            raise
        if row.is_cancelled:
            prediction.cancel()
        elif row.deaths >= self._limits.max_deaths:
            _fail(prediction, _poison(row.deaths))
        elif prediction.status is Status.PROCESSING and not self._limits.is_going_on:
            died = "The server died while it worked on this prediction."
            _fail(prediction, ServerDied(died, remedy="Send the request again."))
        if row.deaths:
            self._suspects.add(prediction)
        logger.info("prediction %s: goes on after %d pieces", prediction.id, len(pieces))
        self._begin(prediction, order, ticket, pieces)

    async def _run(
        self, prediction: Prediction, order: Request | Prepared, ticket: Ticket, pieces: Sequence[Piece]
    ) -> None:
        """The task of one prediction: whatever happens in here becomes its end."""
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                try:
                    prepared = order if isinstance(order, Prepared) else await self._prepare(prediction, order, ticket)
                finally:
                    del order
                self._line.release_bytes(ticket)
                await ticket.pass_through(self._engine_gate)
                if prediction.started is None:
                    self._start(prediction, prepared)
                answers = [Answer(self._preparer.tokenizer, prepared.stop) for _ in range(prediction.num_choices)]
                for piece in pieces:
                    answers[piece.choice].resume(piece)
                is_suspect = prediction in self._suspects
                await self._generator.run(prediction, prepared, answers, is_suspect=is_suspect)
                prediction.succeed(prediction.usage)
        except TimeoutError:
            seconds = self._limits.timeout_s
            late = f"The prediction was not finished within {seconds:g} s."
            _fail(prediction, DeadlineExceeded(late, remedy="Ask for fewer tokens, or try again later."))
        except LeaseLost:
            self._handed_over.add(prediction)
        except LavatubeError as error:
            _fail(prediction, error)
        except Exception:
            logger.exception("prediction %s: a defect of the server", prediction.id)
            _fail(prediction, InternalError("The server failed to answer; its log says why."))

    async def _prepare(self, prediction: Prediction, request: Request, ticket: Ticket) -> Prepared:
        has_urls = _has_urls(request.chat)
        await ticket.pass_through(self._fetch_gate if has_urls else self._prepare_gate)
        threads = self._fetchers if has_urls else self._threads
        run = copy_context().run  # the log tells whose
        future = threads.submit(run, self._preparer.prepare, request.chat, request.generation)
        self._preparing[prediction] = future
        del request
        prepared = await asyncio.wrap_future(future)
        self._preparing.pop(prediction)
        return prepared

    def _start(self, prediction: Prediction, prepared: Prepared) -> None:
        prediction.start(prepared.prompt_tokens, prepared.image_tokens)
        if prediction.is_journaled:
            self._unstored[prediction] = prepared
        for observer in self.observers:
            observer.started(prediction)

    def _finish(self, prediction: Prediction, ticket: Ticket, _task: asyncio.Task[None]) -> None:
        """The task is over, even one that was cancelled before it began."""
        del self._tasks[prediction]
        self._unstored.pop(prediction, None)
        self._suspects.discard(prediction)
        is_handed_over = prediction in self._handed_over and not prediction.is_over
        self._handed_over.discard(prediction)
        if not (prediction.is_over or is_handed_over):
            prediction.cancel()
        started = prediction.started
        self._leave(prediction, ticket, None if started is None else time.monotonic() - started)
        if is_handed_over:
            self._let_go(prediction)
        elif prediction.is_journaled:
            self._settling[prediction] = asyncio.create_task(self._settle(prediction))
        else:
            self._conclude(prediction)

    async def _settle(self, prediction: Prediction) -> None:
        """Its end is seen once it is stored."""
        assert self._scribe is not None
        try:
            await self._scribe.end(prediction)
            prediction.publish()
            self._conclude(prediction)
        except (LeaseLost, StorageUnavailable):
            self._let_go(prediction)
        finally:
            del self._settling[prediction]

    def _let_go(self, prediction: Prediction) -> None:
        logger.info("prediction %s: is handed over", prediction.id)
        self._retention.drop(prediction)
        prediction.release()
        for observer in self.observers:
            observer.released(prediction)

    def _conclude(self, prediction: Prediction) -> None:
        self._retention.finish(prediction)
        if not prediction.is_kept:
            self._retention.drop(prediction)
        for observer in self.observers:
            observer.ended(prediction)
        logger.info(
            "prediction %s: %s", prediction.id, prediction.error.code if prediction.error else prediction.status
        )

    def _leave(self, prediction: Prediction, ticket: Ticket, duration_s: float | None) -> None:
        """Give its place away, but not before its thread is free: what can't be cancelled still occupies it."""
        num_tokens = prediction.usage.prompt_tokens + prediction.usage.completion_tokens
        future = self._preparing.pop(prediction, None)
        if future is None or future.cancel() or future.done():
            self._line.leave(ticket, duration_s, num_tokens)
            return
        loop = asyncio.get_running_loop()

        def on_thread_end(_: Future[Prepared]) -> None:
            with suppress(RuntimeError):  # the loop is closed: the server has ended before the thread
                loop.call_soon_threadsafe(self._line.leave, ticket, duration_s, num_tokens)

        future.add_done_callback(on_thread_end)


def _has_urls(chat: Chat) -> bool:
    """Requests that wait for some picture's host have threads of their own."""
    return any(isinstance(image.source, str) and image.source[:4].lower() == "http" for image in chat.images)


def _fail(prediction: Prediction, error: LavatubeError) -> None:
    """An error of the way down from a cancellation changes nothing: the prediction has its end."""
    if not prediction.is_over:
        prediction.fail(error)


def _poison(num_deaths: int) -> EngineCrashPoison:
    return EngineCrashPoison(
        f"The server died {num_deaths} times while it worked on this prediction.",
        remedy="Change the request; as it is, it is not tried again.",
    )


def _draining(message: str) -> Draining:
    return Draining(message, remedy="Try again in a moment.", retry_after_s=DRAIN_RETRY_AFTER_S)
