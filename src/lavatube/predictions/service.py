"""Predictions from request to end: admit, prepare in a thread, generate, write to the log, stop when nobody reads.

The one owner of running predictions: one asyncio task each. Knows the preparer and the engine by what they do; knows no
protocol.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol

from lavatube.errors import (
    Conflict,
    DeadlineExceeded,
    Draining,
    InternalError,
    InvalidInput,
    LavatubeError,
    NotFound,
)
from lavatube.predictions.answer import Answer
from lavatube.predictions.gate import Gate
from lavatube.predictions.generation import Engine, Generator
from lavatube.predictions.line import Line, Ticket
from lavatube.predictions.observers import Observer
from lavatube.predictions.owners import NO_LIMITS, OPERATOR, OwnerLimits
from lavatube.predictions.prediction import Prediction, new_id
from lavatube.predictions.retention import Retention, RetentionLimits
from lavatube.predictions.webhook import Webhook
from lavatube.prompt.chat import Chat, Generation
from lavatube.prompt.prepare import Estimate, Prepared
from lavatube.prompt.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

DRAIN_RETRY_AFTER_S: Final = 10
AHEAD: Final = 4


class Prepares(Protocol):
    """What the service asks of prompt.prepare.Preparer: blocking, from several threads at once."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    def prepare(self, chat: Chat, generation: Generation) -> Prepared: ...

    def estimate(self, chat: Chat, sizes: Sequence[tuple[int, int]]) -> Estimate: ...


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """How much is taken on at once, and for how long; and whether owners find each other's work in the caches."""

    max_running: int = 16
    max_waiting: int = 64
    max_waiting_bytes: int = 256 * 1024 * 1024
    timeout_s: float = 600.0
    prepare_threads: int = 16
    is_sharing_caches: bool = False
    retention: RetentionLimits = field(default_factory=RetentionLimits)


class PredictionService:
    """Creates, finds and ends predictions. Everything here belongs to the event loop that it is used from."""

    def __init__(
        self,
        preparer: Prepares,
        engine: Engine,
        limits: ServiceLimits,
        limits_of: Callable[[str], OwnerLimits] = lambda _: NO_LIMITS,
    ) -> None:
        """`limits_of` says what an owner may use."""
        self.observers: list[Observer] = []
        self._preparer = preparer
        self._limits = limits
        self._line = Line(limits.max_running, limits.max_waiting, limits.max_waiting_bytes, limits_of)
        self._generator = Generator(engine, self._tell_written, is_sharing_caches=limits.is_sharing_caches)
        # A few wait in the engine itself, so that a row that gets free is taken in the very next step.
        self._engine_gate = Gate(limits.max_running + math.ceil(limits.max_running / AHEAD))
        self._prepare_gate, self._fetch_gate = Gate(limits.prepare_threads), Gate(limits.prepare_threads)
        self._retention = Retention(limits.retention)
        self._threads = ThreadPoolExecutor(limits.prepare_threads, thread_name_prefix="prepare")
        self._fetchers = ThreadPoolExecutor(limits.prepare_threads, thread_name_prefix="fetch")
        self._preparing: dict[Prediction, Future[Prepared]] = {}
        self._tasks: dict[Prediction, asyncio.Task[None]] = {}
        self._readers: dict[Prediction, int] = {}
        self._is_draining = False

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

    def find(self, prediction_id: str, owner: str = OPERATOR) -> Prediction | None:
        """Another owner's is not there."""
        prediction = self._retention.find(prediction_id)
        return None if prediction is None or prediction.owner != owner else prediction

    def find_anyones(self, prediction_id: str) -> Prediction | None:
        """For a reader who is to show another secret than the owner's key."""
        return self._retention.find(prediction_id)

    def list(self, owner: str, origin: str, before: str | None, limit: int) -> tuple[Sequence[Prediction], str | None]:
        """One owner's of one API, the newest first, and the cursor of what follows; `before` is such a cursor.

        Raises: InvalidInput, for a cursor of nothing that is there.
        """
        found = self._retention.of(owner, origin)
        if before is not None:
            places = [place for place, one in enumerate(found) if one.id == before]
            if not places:
                raise InvalidInput("There is nothing at this cursor.", param="cursor", remedy="Begin without one.")
            found = found[places[0] + 1 :]
        return found[:limit], found[limit - 1].id if len(found) > limit else None

    def get(self, prediction_id: str, owner: str = OPERATOR) -> Prediction:
        """Raises NotFound."""
        prediction = self.find(prediction_id, owner)
        if prediction is None:
            raise NotFound(
                "There is no such prediction.",
                param="id",
                remedy="Finished predictions are kept for a while only.",
            )
        return prediction

    def create(
        self,
        chat: Chat,
        generation: Generation,
        *,
        prediction_id: str | None = None,
        fingerprint: bytes = b"",
        is_detached: bool = False,
        is_kept: bool = True,
        owner: str = "",
        origin: str = "",
        details: Mapping[str, Any] | None = None,
        webhook: Webhook | None = None,
    ) -> Prediction:
        """A new prediction, or the one that this id already means; one that failed for a passing reason is run anew.

        The flags are explained at Prediction.
        Raises: Conflict if the id means another request; Overloaded; Draining.
        """
        known = None if prediction_id is None else self._retention.find(prediction_id)
        if known is not None:
            if known.fingerprint != fingerprint or known.owner != owner:
                raise Conflict("This id was used for another request.", param="id", remedy="Choose a new id.")
            if known in self._tasks or not known.is_worth_retrying:
                known.is_detached |= is_detached
                return known
        if self._is_draining:
            raise _draining("The server is shutting down and takes no new predictions.")
        size_bytes = sum(len(image.source) for image in chat.images)
        ticket = self._line.enter(size_bytes, owner, cost=generation.num_choices)
        if known is not None:
            self._retention.forget(known)
        prediction = Prediction(
            prediction_id or new_id(),
            fingerprint=fingerprint,
            is_detached=is_detached,
            is_kept=is_kept,
            owner=owner,
            origin=origin,
            details=details,
            webhook=webhook,
            num_choices=generation.num_choices,
        )
        self._retention.add(prediction)
        for observer in self.observers:
            observer.created(prediction)
        task = asyncio.create_task(self._run(prediction, chat, generation, ticket), name=prediction.id)
        self._tasks[prediction] = task
        task.add_done_callback(partial(self._finish, prediction, ticket))
        return prediction

    async def estimate(self, chat: Chat, sizes: Sequence[tuple[int, int]]) -> Estimate:
        """What a conversation would cost, with pictures of these sizes. Raises: RequestErrors."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._preparer.estimate, chat, sizes)

    def cancel(self, prediction: Prediction) -> bool:
        """End it now; its engine request is aborted at the next step. False if it had already ended."""
        if prediction.status.is_terminal:
            return False
        prediction.cancel()
        self._tasks[prediction].cancel()
        return True

    async def delete(self, prediction: Prediction) -> None:
        """End it, if it runs, and forget it."""
        prediction.is_kept = False
        self.cancel(prediction)
        if (task := self._tasks.get(prediction)) is not None:
            await asyncio.wait({task})
        elif self.find(prediction.id, prediction.owner) is prediction:
            self._retention.forget(prediction)

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

    async def drain(self, grace_s: float) -> None:
        """Take nothing new, let what runs finish for `grace_s`, then end the rest as failed."""
        self._is_draining = True
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()), timeout=grace_s)
        for prediction, task in list(self._tasks.items()):
            _fail(prediction, _draining("The server shut down before this prediction was finished."))
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))
        for threads in (self._threads, self._fetchers):
            threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, prediction: Prediction, chat: Chat, generation: Generation, ticket: Ticket) -> None:
        """The task of one prediction: whatever happens in here becomes its end."""
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                try:
                    has_urls = _has_urls(chat)
                    await ticket.pass_through(self._fetch_gate if has_urls else self._prepare_gate)
                    threads = self._fetchers if has_urls else self._threads
                    prepared = await asyncio.wrap_future(self._prepare(prediction, chat, generation, threads))
                finally:
                    del chat
                self._preparing.pop(prediction)
                self._line.release_bytes(ticket)
                await ticket.pass_through(self._engine_gate)
                prediction.start(prepared.prompt_tokens, prepared.image_tokens)
                for observer in self.observers:
                    observer.started(prediction)
                answers = [Answer(self._preparer.tokenizer, prepared.stop) for _ in range(prediction.num_choices)]
                await self._generator.run(prediction, prepared, answers)
                prediction.succeed(prediction.usage)
        except TimeoutError:
            seconds = self._limits.timeout_s
            late = f"The prediction was not finished within {seconds:g} s."
            _fail(prediction, DeadlineExceeded(late, remedy="Ask for fewer tokens, or try again later."))
        except LavatubeError as error:
            _fail(prediction, error)
        except Exception:
            logger.exception("prediction %s: a defect of the server", prediction.id)
            _fail(prediction, InternalError("The server failed to answer; its log says why."))

    def _prepare(
        self, prediction: Prediction, chat: Chat, generation: Generation, threads: ThreadPoolExecutor
    ) -> Future[Prepared]:
        future = threads.submit(copy_context().run, self._preparer.prepare, chat, generation)  # the log tells whose
        self._preparing[prediction] = future
        return future

    def _tell_written(self, prediction: Prediction) -> None:
        for observer in self.observers:
            observer.written(prediction)

    def _finish(self, prediction: Prediction, ticket: Ticket, _task: asyncio.Task[None]) -> None:
        """The task is over, even one that was cancelled before it began."""
        del self._tasks[prediction]
        if not prediction.status.is_terminal:
            prediction.cancel()
        started = prediction.started
        self._leave(prediction, ticket, None if started is None else time.monotonic() - started)
        self._retention.finish(prediction)
        if not prediction.is_kept and self.find(prediction.id, prediction.owner) is prediction:
            self._retention.forget(prediction)
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
    if not prediction.status.is_terminal:
        prediction.fail(error)


def _draining(message: str) -> Draining:
    return Draining(message, remedy="Try again in a moment.", retry_after_s=DRAIN_RETRY_AFTER_S)
