"""What can happen to one prediction: it starts, it writes, it ends. Values only; `log.py` keeps them in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

import msgspec

from lavatube.errors import LavatubeError

FinishReason = Literal["stop", "length"]


class Status(StrEnum):
    """Where a prediction is. Both `failed` and `canceled` may have output: what was written stays."""

    STARTING = "starting"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def is_terminal(self) -> bool:
        return not LEGAL_MOVES[self]


LEGAL_MOVES: Final[dict[Status, frozenset[Status]]] = {
    Status.STARTING: frozenset({Status.PROCESSING, Status.FAILED, Status.CANCELED}),
    Status.PROCESSING: frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELED}),
    Status.SUCCEEDED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that were paid for; image and cached tokens are part of the prompt's."""

    prompt_tokens: int = 0
    image_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token, and how likely it was; `top` are the likeliest in its place, those first, which have none in turn."""

    text: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """The request is understood and in the engine's hands; from here on a failure is no longer the request's."""

    id: int


class Output(msgspec.Struct, frozen=True, gc=False):
    """A piece of one answer: the `index`-th, which begins `offset` characters into it. `logprobs` where asked for.

    There are many of them, and none can be part of a cycle: the garbage collector need not walk them again and again.
    """

    id: int
    text: str
    offset: int
    index: int
    choice: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """One of several answers is over. A single one's end is told by Completed."""

    id: int
    choice: int
    reason: FinishReason


@dataclass(frozen=True, slots=True)
class Completed:
    """The end; there is exactly one, and nothing after it."""

    id: int
    status: Status
    error: LavatubeError | None = None


Event = Started | Output | Ended | Completed


def joined(events: Iterable[Event], can_join: Callable[[str], bool] = lambda _: True) -> Iterator[Event]:
    """The same events with pieces of one answer that follow each other as one: at the place of the first, with the id
    of the last, so that whoever has seen it goes on behind the last. `can_join`: whether a piece may have such a text.
    """
    last: Event | None = None
    for event in events:
        if isinstance(last, Output) and isinstance(event, Output) and last.choice == event.choice:
            text = last.text + event.text
            if can_join(last.text) and can_join(event.text) and can_join(text):
                last = Output(event.id, text, last.offset, last.index, last.choice, last.logprobs + event.logprobs)
                continue
        if last is not None:
            yield last
        last = event
    if last is not None:
        yield last
