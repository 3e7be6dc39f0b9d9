"""One prediction's conversation with the engine: Prepared in, text into its log, until all its answers are over.

When the engine dies meanwhile, another one is told the prompt and the tokens so far, and goes on: whoever reads sees a
pause and then the text that would have come. A prediction that brings the engine down each time is failed as the cause.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final, Protocol

from lavatube.engine.wire import Done, Failed, Ready, RequestEvent, Submit, Tokens
from lavatube.errors import Draining, EngineCrashed, EngineCrashPoison, LavatubeError, NotReady, from_code
from lavatube.predictions.answer import Answer
from lavatube.predictions.events import FinishReason
from lavatube.predictions.prediction import Prediction
from lavatube.predictions.quarantine import Quarantine, Visit
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


class Generator:
    """All conversations with one engine. `on_written` is told of each piece of text."""

    def __init__(self, engine: Engine, on_written: Callable[[Prediction], None], *, is_sharing_caches: bool) -> None:
        self._engine = engine
        self._is_sharing_caches = is_sharing_caches
        self._on_written = on_written
        self._quarantine = Quarantine()

    async def run(self, prediction: Prediction, prepared: Prepared, answers: Sequence[Answer]) -> None:
        """Until all answers are over. Raises: the error that ends it; EngineCrashed if the engine stays down."""
        if prepared.sampling.max_tokens == 0:
            for choice, answer in enumerate(answers):
                self._end(prediction, answer, choice, "length")
        try:
            await self._write_all(prediction, prepared, answers)
        finally:  # also of one that fails or is cancelled: its tokens were computed
            completion_tokens = sum(answer.num_tokens for answer in answers)
            prediction.usage = replace(prediction.usage, completion_tokens=completion_tokens)

    async def _write_all(self, prediction: Prediction, prepared: Prepared, answers: Sequence[Answer]) -> None:
        """One engine after the other, if need be."""
        num_crashes, is_suspect = 0, False
        while not all(answer.is_over for answer in answers):
            await self._wait_ready(has_begun=num_crashes > 0 or any(answer.token_ids for answer in answers))
            async with self._quarantine.visit(is_suspect=is_suspect) as visit:
                try:
                    await self._converse(prediction, prepared, answers, visit)
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
                    num_tokens = sum(answer.num_tokens for answer in answers)
                    logger.warning("prediction %s: goes on after %d tokens", prediction.id, num_tokens)

    async def _wait_ready(self, *, has_begun: bool) -> None:
        """Raises: EngineCrashed, or NotReady if nothing was begun, when it does not come back."""
        try:
            await self._engine.wait_ready()
        except Draining:
            raise
        except LavatubeError as failure:
            if has_begun:
                raise EngineCrashed(failure.message, remedy="Try again later.") from None
            raise NotReady("The engine has failed.", remedy="The server's log says why.") from None

    async def _converse(
        self, prediction: Prediction, prepared: Prepared, answers: Sequence[Answer], visit: Visit
    ) -> None:
        """With one engine. Raises: EngineCrashed if it dies, NotReady if it is not up, what fails the request with."""
        has_begun = any(answer.token_ids for answer in answers)
        begun = [None if answer.is_over else list(answer.token_ids) for answer in answers] if has_begun else []
        submit = Submit(
            prediction.id, prepared.token_ids, list(prepared.images), prepared.sampling, begun, self._salt(prediction)
        )
        num_tokens = 0
        async with aclosing(self._engine.submit(submit)) as events:
            async for event in events:
                if isinstance(event, Failed):
                    raise from_code(event.code, event.message, param=event.param or None)
                if isinstance(event, Tokens) and num_tokens <= PROBATION_TOKENS:
                    num_tokens += len(event.token_ids)
                    if num_tokens > PROBATION_TOKENS:
                        visit.clear()
                self._hear(prediction, answers, event)
                if all(answer.is_over for answer in answers):
                    return
        raise EngineCrashed("The engine ended the stream without a result.", remedy="Try again.")

    def _salt(self, prediction: Prediction) -> bytes:
        """What was computed for one owner is found again by that owner only."""
        return b"" if self._is_sharing_caches else prediction.owner.encode()

    def _hear(self, prediction: Prediction, answers: Sequence[Answer], event: Tokens | Done) -> None:
        """One event of one answer, whose text goes into the log."""
        answer = answers[event.choice]
        if answer.is_over:
            return  # it has met a stop string, and the engine did not know yet
        text, logprobs = answer.push(event) if isinstance(event, Tokens) else answer.finish()
        if text or logprobs:
            prediction.write(text, event.choice, logprobs)
            self._on_written(prediction)
        if isinstance(event, Done):
            prediction.usage = replace(prediction.usage, cached_tokens=event.cached_tokens)
        if answer.has_stopped:
            self._end(prediction, answer, event.choice, "stop")
        elif isinstance(event, Done):
            self._end(prediction, answer, event.choice, _finish_reason(event))
        else:
            return
        if isinstance(event, Tokens) and len(answers) > 1:
            self._engine.abort_choice(prediction.id, event.choice)

    def _end(self, prediction: Prediction, answer: Answer, choice: int, reason: FinishReason) -> None:
        answer.is_over = True
        prediction.end_choice(choice, reason)


def _finish_reason(done: Done) -> FinishReason:
    match done.reason:
        case "stop" | "length":
            return done.reason
        case _:
            raise EngineCrashed("The engine stopped before the answer was complete.", remedy="Try again.")
