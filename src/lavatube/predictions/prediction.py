"""One prediction: its state, its log, its times and its tokens. Knows no protocol and no engine."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from lavatube.errors import LavatubeError
from lavatube.predictions.events import (
    LEGAL_MOVES,
    Completed,
    Ended,
    FinishReason,
    Output,
    Started,
    Status,
    TokenLogprob,
    Usage,
)
from lavatube.predictions.log import EventLog
from lavatube.predictions.webhook import Webhook


def new_id() -> str:
    """26 lower-case letters and digits, unguessable: who has the id may read the prediction."""
    return base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower()


@dataclass(frozen=True, slots=True)
class _End:
    """How it ended, and when, by the wall and by the monotonic clock."""

    status: Status
    error: LavatubeError | None
    at: datetime
    moment: float


class Prediction:
    """Written by the service's one task for it, read by any number of views.

    Two owners may use the same `id`, and neither finds the other's: `key` is what the server calls it, the journal and
    the engine with it; where none is given, the id. `fingerprint` tells whether a repeated id means the same request.
    `is_detached` predictions go on when nobody reads; those that are not `is_kept` are forgotten when they end. The
    end of one that `is_journaled` is decided first, then stored, and only then published. `owner` made it, through the
    protocol `origin`, whose view needs `details`: JSON values, small ones. At `cancel_at` it is cancelled, unless it
    has ended.
    """

    def __init__(
        self,
        prediction_id: str,
        *,
        key: str = "",
        fingerprint: bytes = b"",
        is_detached: bool = False,
        is_kept: bool = True,
        is_journaled: bool = False,
        owner: str = "",
        origin: str = "",
        details: Mapping[str, Any] | None = None,
        webhook: Webhook | None = None,
        cancel_at: datetime | None = None,
        num_choices: int = 1,
    ) -> None:
        self.id = prediction_id
        self.key = key or prediction_id
        self.fingerprint = fingerprint
        self.is_detached = is_detached
        self.is_kept = is_kept
        self.is_journaled = is_journaled
        self.owner = owner
        self.origin = origin
        self.details: Mapping[str, Any] = details or {}
        self.webhook = webhook
        self.cancel_at = cancel_at
        self.log = EventLog()
        self.status = Status.STARTING
        self.usage = Usage()
        self.error: LavatubeError | None = None
        self.finish_reasons: list[FinishReason | None] = [None] * num_choices
        self.created_at = datetime.now(UTC)
        self.started_at: datetime | None = None
        self.completed_at: datetime | None = None
        self.created = time.monotonic()
        self.started: float | None = None
        self.first_output: float | None = None
        self.completed: float | None = None
        self._num_outputs = [0] * num_choices
        self._num_characters = [0] * num_choices
        self._end: _End | None = None
        self._ended = asyncio.Event()

    @property
    def size_bytes(self) -> int:
        """What it takes to keep it, about."""
        return self.log.size_bytes + _size_bytes(self.details)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Of the first answer."""
        return self.finish_reasons[0]

    @property
    def num_choices(self) -> int:
        return len(self.finish_reasons)

    @property
    def text(self) -> str:
        """The first answer."""
        return "".join(self.log.outputs)

    @property
    def has_output(self) -> bool:
        return any(self._num_outputs)

    @property
    def is_over(self) -> bool:
        """Its end is decided, whether or not it is published."""
        return self._end is not None

    @property
    def is_worth_retrying(self) -> bool:
        """It failed for a reason that passes, and nobody has read a word of it."""
        return self.error is not None and self.error.is_retryable and not self.has_output

    def start(self, prompt_tokens: int, image_tokens: int) -> None:
        self._move(Status.PROCESSING)
        self.usage = Usage(prompt_tokens=prompt_tokens, image_tokens=image_tokens)
        self.started, self.started_at = time.monotonic(), datetime.now(UTC)
        self.log.append(Started(self.log.next_id))

    def write(self, text: str, choice: int = 0, logprobs: tuple[TokenLogprob, ...] = ()) -> None:
        assert self.status is Status.PROCESSING
        if self.first_output is None:
            self.first_output = time.monotonic()
        offset, index = self._num_characters[choice], self._num_outputs[choice]
        self.log.append(Output(self.log.next_id, text, offset, index, choice, logprobs))
        self._num_outputs[choice] += 1
        self._num_characters[choice] += len(text)

    def end_choice(self, choice: int, reason: FinishReason) -> None:
        """One answer is over; when all are, `succeed`."""
        self.finish_reasons[choice] = reason
        if self.num_choices > 1:
            self.log.append(Ended(self.log.next_id, choice, reason))

    def succeed(self, usage: Usage) -> None:
        assert None not in self.finish_reasons
        self.usage = usage
        self._decide(Status.SUCCEEDED)

    def fail(self, error: LavatubeError) -> None:
        # It is kept for long, and the frames of its way here hold the request's pictures.
        error.__traceback__ = error.__context__ = error.__cause__ = None
        self._decide(Status.FAILED, error)

    def cancel(self) -> None:
        self._decide(Status.CANCELED)

    def publish(self) -> None:
        """Show the end that was decided: state first, then those who wait for it."""
        end = self._show_end()
        self.log.append(Completed(self.log.next_id, end.status, end.error))
        self._ended.set()

    def as_ended(self) -> Self:
        """What it is once its end is published; for those who must know before anybody else."""
        twin = copy(self)
        twin._show_end()
        return twin

    def release(self) -> None:
        """It goes on elsewhere: whoever reads or waits here is let go, without an end."""
        self.log.close()
        self._ended.set()

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end; whether it came in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()
        except TimeoutError:
            pass
        return self.status.is_terminal

    @property
    def metrics(self) -> dict[str, float | int]:
        """What can be said so far. Units: seconds, tokens; `predict_time` starts when the request was prepared."""
        metrics: dict[str, float | int] = {}
        if self.started is not None and self.completed is not None:
            metrics["predict_time"] = round(self.completed - self.started, 6)
            metrics["total_time"] = round(self.completed - self.created, 6)
        if self.first_output is not None:
            metrics["time_to_first_token"] = round(self.first_output - self.created, 6)
        if self.started is not None:
            metrics["input_token_count"] = self.usage.prompt_tokens
            metrics["image_token_count"] = self.usage.image_tokens
        if self.status is Status.SUCCEEDED:
            metrics["output_token_count"] = self.usage.completion_tokens
            metrics |= self._speed()
        return metrics

    def _speed(self) -> dict[str, float]:
        """Decoding only: the first token is time_to_first_token's."""
        if self.first_output is None or self.completed is None or self.usage.completion_tokens < 2:
            return {}
        decode_s = max(self.completed - self.first_output, 1e-6)
        return {"tokens_per_second": round((self.usage.completion_tokens - 1) / decode_s, 3)}

    def _move(self, status: Status) -> None:
        assert status in LEGAL_MOVES[self.status], f"a prediction does not go from {self.status} to {status}"
        self.status = status

    def _decide(self, status: Status, error: LavatubeError | None = None) -> None:
        assert self._end is None, "there is one end"
        assert status in LEGAL_MOVES[self.status], f"a prediction does not go from {self.status} to {status}"
        self._end = _End(status, error, datetime.now(UTC), time.monotonic())
        if not self.is_journaled:
            self.publish()

    def _show_end(self) -> _End:
        end = self._end
        assert end is not None
        self._move(end.status)
        self.error, self.completed_at, self.completed = end.error, end.at, end.moment
        return end


def _size_bytes(value: object) -> int:
    """Of JSON; its numbers are small."""
    match value:
        case str():
            return len(value)
        case Mapping():
            return sum(len(name) + _size_bytes(item) for name, item in value.items())
        case list():
            return sum(map(_size_bytes, value))
        case _:
            return 8
