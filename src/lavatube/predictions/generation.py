"""One prediction's conversation with the engine: Prepared in, text into its log, until all its answers are over.

When the engine dies meanwhile, another one is told the prompt and the tokens so far, and goes on: whoever reads sees a
pause and then the text that would have come. A prediction that brings the engine down each time is failed as the cause.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final, Protocol

from lavatube.engine.wire import Done, Failed, Ready, RequestEvent, Submit, Tokens
from lavatube.errors import (
    Draining,
    EngineCrashed,
    EngineCrashPoison,
    LavatubeError,
    NotReady,
    OperatorError,
    from_code,
)
from lavatube.predictions.answer import Answer
from lavatube.predictions.events import FinishReason, TokenLogprob
from lavatube.predictions.prediction import Prediction
from lavatube.predictions.quarantine import Quarantine, Visit
from lavatube.predictions.records import Piece
from lavatube.prompt.prepare import Prepared

logger = logging.getLogger(__name__)

MAX_CRASHES: Final = 2
"""So many, and nobody else who may have been the cause: then it is this one."""
MAX_SHARED_CRASHES: Final = 4
PROBATION_TOKENS: Final = 4


class Engine(Protocol):
    """What is asked of engine.client.EngineClient: closing the stream aborts the request."""

    async def wait_ready(self) -> Ready: ...

    def submit(self, request: Submit) -> AsyncGenerator[RequestEvent, None]: ...

    def abort_choice(self, request_id: str, choice: int) -> None: ...


class Listener(Protocol):
    """Who is told how one prediction comes along."""

    async def submitting(self) -> None:
        """It is about to be given to an engine, and is not before this returns."""

    def written(self, piece: Piece) -> None: ...


class Generator:
    """All conversations with one engine."""

    def __init__(self, engine: Engine, *, is_sharing_caches: bool) -> None:
        self._engine = engine
        self._is_sharing_caches = is_sharing_caches
        self._quarantine = Quarantine()

    async def run(self, talk: Talk, *, is_suspect: bool = False) -> None:
        """Until all answers are over; one that may have brought a server down goes in alone at first.

        Raises: the error that ends it; EngineCrashed if the engine stays down.
        """
        if talk.prepared.sampling.max_tokens == 0:
            for choice in range(len(talk.answers)):
                talk.end(choice, "length")
        try:
            await self._write_all(talk, is_suspect=is_suspect)
        finally:  # also of one that fails or is cancelled: its tokens were computed
            talk.prediction.usage = replace(talk.prediction.usage, completion_tokens=talk.num_tokens)

    async def _write_all(self, talk: Talk, *, is_suspect: bool) -> None:
        """One engine after the other, if need be."""
        num_crashes = 0
        while not talk.is_over:
            await self._wait_ready(has_begun=num_crashes > 0 or talk.has_begun)
            async with self._quarantine.visit(is_suspect=is_suspect) as visit:
                try:
                    await talk.listener.submitting()
                    await self._converse(talk, visit)
                except NotReady:
                    continue  # it went down between the two
                except EngineCrashed as crash:
                    culprits = self._quarantine.culprits(crash)
                    is_suspect = visit in culprits
                    num_crashes += is_suspect
                    if num_crashes >= (MAX_CRASHES if len(culprits) == 1 else MAX_SHARED_CRASHES):
                        raise EngineCrashPoison(
                            f"The engine crashed {num_crashes} times while it worked on this prediction.",
                            remedy="Change the request; as it is, it is not tried again.",
                        ) from None
                    logger.warning("prediction %s: goes on after %d tokens", talk.prediction.id, talk.num_tokens)

    async def _wait_ready(self, *, has_begun: bool) -> None:
        """Raises: EngineCrashed when it stays down; if nothing was begun, NotReady, or why there is no model."""
        try:
            await self._engine.wait_ready()
        except Draining:
            raise
        except LavatubeError as failure:
            if has_begun:
                raise EngineCrashed(failure.message, remedy="Try again later.") from None
            if isinstance(failure, OperatorError):  # whose paths and addresses are for the operator
                raise from_code(failure.code, "The weights can't be used.") from None
            raise NotReady("The engine has failed.", remedy="The server's log says why.") from None

    async def _converse(self, talk: Talk, visit: Visit) -> None:
        """With one engine. Raises: EngineCrashed if it dies, NotReady if it is not up, what fails the request with."""
        num_tokens = 0
        async with aclosing(self._engine.submit(talk.submit(self._salt(talk.prediction)))) as events:
            async for event in events:
                if isinstance(event, Failed):
                    raise from_code(event.code, event.message, param=event.param or None)
                if isinstance(event, Tokens) and num_tokens <= PROBATION_TOKENS:
                    num_tokens += len(event.token_ids)
                    if num_tokens > PROBATION_TOKENS:
                        visit.clear()
                self._hear(talk, event)
                if talk.is_over:
                    return
        raise EngineCrashed("The engine ended the stream without a result.", remedy="Try again.")

    def _salt(self, prediction: Prediction) -> bytes:
        """What was computed for one owner is found again by that owner only."""
        return b"" if self._is_sharing_caches else prediction.owner.encode()

    def _hear(self, talk: Talk, event: Tokens | Done) -> None:
        """One event of one answer, whose text goes into the log."""
        answer, prediction = talk.answers[event.choice], talk.prediction
        if answer.is_over:
            return  # it has met a stop string, and the engine did not know yet
        for text, logprobs in answer.push(event) if isinstance(event, Tokens) else answer.finish():
            talk.write(event.choice, text, logprobs)
        if isinstance(event, Done):
            prediction.usage = replace(prediction.usage, cached_tokens=event.cached_tokens)
        if answer.has_stopped:
            talk.end(event.choice, "stop")
        elif isinstance(event, Done):
            talk.end(event.choice, _finish_reason(event))
        else:
            return
        if isinstance(event, Tokens) and len(talk.answers) > 1:
            self._engine.abort_choice(prediction.key, event.choice)


@dataclass(frozen=True, slots=True)
class Talk:
    """What is said of one prediction, with one engine or several."""

    prediction: Prediction
    prepared: Prepared
    answers: Sequence[Answer]
    listener: Listener

    @property
    def is_over(self) -> bool:
        return all(answer.is_over for answer in self.answers)

    @property
    def has_begun(self) -> bool:
        return any(answer.token_ids for answer in self.answers)

    @property
    def num_tokens(self) -> int:
        return sum(answer.num_tokens for answer in self.answers)

    def submit(self, salt: bytes) -> Submit:
        """What the next engine is to go on with."""
        begun = [None if answer.is_over else list(answer.token_ids) for answer in self.answers]
        return Submit(
            self.prediction.key,
            self.prepared.token_ids,
            list(self.prepared.images),
            self.prepared.sampling,
            begun if self.has_begun else [],
            salt,
        )

    def write(self, choice: int, text: str, logprobs: tuple[TokenLogprob, ...]) -> None:
        self.prediction.write(text, choice, logprobs)
        self.listener.written(Piece(choice, self.answers[choice].take(), text, logprobs))

    def end(self, choice: int, reason: FinishReason) -> None:
        answer = self.answers[choice]
        answer.is_over = True
        self.prediction.end_choice(choice, reason)
        self.listener.written(Piece(choice, answer.take(), reason=reason))


def _finish_reason(done: Done) -> FinishReason:
    match done.reason:
        case "stop" | "length":
            return done.reason
        case _:
            raise EngineCrashed("The engine stopped before the answer was complete.", remedy="Try again.")
