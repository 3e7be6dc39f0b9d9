"""One prediction on its way: accepted, prepared, generated, its end stored and shown. One task after the other.

Whatever happens in here becomes its end; but a journaled prediction may also be handed over, to go on elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from lavatube.errors import DeadlineExceeded, InternalError, LavatubeError
from lavatube.predictions.answer import Answer
from lavatube.predictions.gate import Gate
from lavatube.predictions.generation import Generator, Talk
from lavatube.predictions.leases import LeaseLost
from lavatube.predictions.line import Line, Ticket
from lavatube.predictions.observers import Observer
from lavatube.predictions.prediction import Prediction
from lavatube.predictions.preparation import Preparation
from lavatube.predictions.records import Piece, Request
from lavatube.predictions.scribe import Scribe
from lavatube.prompt.prepare import Prepared

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Workshop:
    """What all jobs share. `gate` is in front of the engine. Without a `scribe` nothing is journaled."""

    line: Line
    preparation: Preparation
    gate: Gate
    generator: Generator
    scribe: Scribe | None
    timeout_s: float
    observers: list[Observer] = field(default_factory=list)


class Job:
    """`on_over` is called when it is over: its prediction has its end, or is not for this server any more.

    One that `is_suspect` may have brought a server down.
    """

    def __init__(
        self, prediction: Prediction, ticket: Ticket, workshop: Workshop, on_over: Callable[[Job], None]
    ) -> None:
        self.prediction = prediction
        self.is_suspect = False
        self.has_begun = False
        self._ticket = ticket
        self._shop = workshop
        self._on_over = on_over
        self._acceptance: asyncio.Task[None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._settling: asyncio.Task[None] | None = None
        self.is_handed_over = False
        self.is_stored = False
        self._unstored: Prepared | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._over = asyncio.Event()

    async def accept(self, request: Request, *, replaces: str | None = None) -> None:
        """Begin it once it is durable. Raises: Conflict if another server has this id; StorageUnavailable."""
        scribe = self._scribe
        self._acceptance = asyncio.create_task(scribe.accept(self.prediction, request, replaces=replaces))
        self._acceptance.add_done_callback(partial(self._accepted, request))
        await self.accepted()

    async def accepted(self) -> None:
        """Raises: as `accept`."""
        if self._acceptance is not None:
            await asyncio.shield(self._acceptance)  # it counts even if whoever asked has gone

    def begin(self, order: Request | Prepared, pieces: Sequence[Piece] = ()) -> None:
        """Run it, or go on after what was written of it."""
        self.has_begun = True
        for observer in self._shop.observers:
            observer.created(self.prediction)
        self._running = asyncio.create_task(self._run(order, pieces), name=self.prediction.id)
        self._running.add_done_callback(self._finish)
        if self.prediction.cancel_at is not None:
            left_s = (self.prediction.cancel_at - datetime.now(UTC)).total_seconds()
            self._alarm = asyncio.get_running_loop().call_later(max(left_s, 0.0), self._on_alarm)
        if self.prediction.is_over:  # it was cancelled before it could begin
            self._running.cancel()

    def end(self, error: LavatubeError | None = None) -> None:
        """Now: as failed, or as cancelled."""
        if error is not None:
            self.prediction.fail(error)
        else:
            self.prediction.cancel()
        if self._running is not None:
            self._running.cancel()

    def hand_over(self) -> None:
        """Stop, but do not end it."""
        if self._running is not None and not self.prediction.is_over:
            self.is_handed_over = True
            self._running.cancel()

    async def wait(self) -> None:
        """Until it is over."""
        await self._over.wait()

    async def submitting(self) -> None:
        """As the generator's listener: nobody reads a word of it before it is known what the words come from."""
        if self.prediction.is_journaled:
            prepared, self._unstored = self._unstored, None
            await self._scribe.submit(self.prediction, prepared)

    def written(self, piece: Piece) -> None:
        """As the generator's listener."""
        if self.prediction.is_journaled:
            self._scribe.write(self.prediction, piece)
        if piece.reason is None:
            for observer in self._shop.observers:
                observer.written(self.prediction)

    @property
    def _scribe(self) -> Scribe:
        assert self._shop.scribe is not None, "nothing is journaled without a journal"
        return self._shop.scribe

    def _accepted(self, request: Request, acceptance: asyncio.Task[None]) -> None:
        if acceptance.cancelled() or acceptance.exception() is not None:
            self._leave()
            self._be_over()
        else:
            self.begin(request)

    async def _run(self, order: Request | Prepared, pieces: Sequence[Piece]) -> None:
        prediction, shop = self.prediction, self._shop
        try:
            async with asyncio.timeout(shop.timeout_s):
                try:
                    if isinstance(order, Request):
                        prepared = await shop.preparation.prepare(prediction, order, self._ticket)
                    else:
                        prepared = order
                finally:
                    del order
                shop.line.release_bytes(self._ticket)
                await self._ticket.pass_through(shop.gate)
                if prediction.started is None:
                    self._start(prepared)
                answers = [Answer(shop.preparation.tokenizer, prepared.stop) for _ in range(prediction.num_choices)]
                for piece in pieces:
                    answers[piece.choice].resume(piece)
                await shop.generator.run(Talk(prediction, prepared, answers, self), is_suspect=self.is_suspect)
                prediction.succeed(prediction.usage)
        except TimeoutError:
            late = f"The prediction was not finished within {shop.timeout_s:g} s."
            self._fail(DeadlineExceeded(late, remedy="Ask for fewer tokens, or try again later."))
        except LeaseLost:
            self.is_handed_over = True
        except LavatubeError as error:
            self._fail(error)
        except Exception:
            logger.exception("prediction %s: a defect of the server", prediction.id)
            self._fail(InternalError("The server failed to answer; its log says why."))

    def _start(self, prepared: Prepared) -> None:
        self.prediction.start(prepared.prompt_tokens, prepared.image_tokens)
        self._unstored = prepared
        for observer in self._shop.observers:
            observer.started(self.prediction)

    def _fail(self, error: LavatubeError) -> None:
        """An error of the way down from a cancellation changes nothing: the prediction has its end."""
        if not self.prediction.is_over:
            self.prediction.fail(error)

    def _on_alarm(self) -> None:
        if not self.prediction.is_over:
            self.end()

    def _finish(self, _running: asyncio.Task[None]) -> None:
        """The task is over, even one that was cancelled before it began."""
        prediction = self.prediction
        if self._alarm is not None:
            self._alarm.cancel()
        if not (prediction.is_over or self.is_handed_over):
            prediction.cancel()
        self._leave()
        if prediction.is_journaled and prediction.is_over:
            self._settling = asyncio.create_task(self._settle())
        else:
            self._be_over()

    async def _settle(self) -> None:
        """Its end is shown once it is stored."""
        try:
            self.is_stored = await self._scribe.end(self.prediction)
            self.prediction.publish()
        except LeaseLost:
            logger.warning("prediction %s: another server has it; its end here does not count", self.prediction.id)
        finally:
            self._be_over()

    def _leave(self) -> None:
        """Give its place away, when it is free."""
        usage, started = self.prediction.usage, self.prediction.started
        num_tokens = usage.prompt_tokens + usage.completion_tokens
        duration_s = None if started is None else time.monotonic() - started
        on_free = partial(self._shop.line.leave, self._ticket, duration_s, num_tokens)
        self._shop.preparation.leave(self.prediction, on_free)

    def _be_over(self) -> None:
        self._on_over(self)
        self._over.set()
