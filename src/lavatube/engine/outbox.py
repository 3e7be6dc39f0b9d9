"""What the engine has to say of its sequences, in order, until somebody takes it."""

from __future__ import annotations

from lavatube.engine.sampler import Choice
from lavatube.engine.sequence import Sequence
from lavatube.engine.wire import Done, Failed, RequestEvent, Tokens
from lavatube.errors import LavatubeError


class Outbox:
    def __init__(self) -> None:
        self._events: list[RequestEvent] = []

    def __len__(self) -> int:
        return len(self._events)

    def take(self) -> list[RequestEvent]:
        events, self._events = self._events, []
        return events

    def tell(self, sequence: Sequence, choice: Choice) -> None:
        """The token that comes next in an answer."""
        self._events.append(
            Tokens(
                request_id=sequence.request_id,
                position=sequence.num_completion_tokens,
                token_ids=[choice.token_id],
                choice=sequence.choice,
                logprobs=[] if choice.logprobs is None else [choice.logprobs],
            )
        )

    def end(self, sequence: Sequence, reason: str, now_s: float, *, num_left: int, late_tokens: int) -> None:
        """An answer is over; `num_left` others of its request go on."""
        queued_s, prefill_s, decode_s = sequence.durations(now_s)
        self._events.append(
            Done(
                request_id=sequence.request_id,
                reason=reason,
                prompt_tokens=sequence.num_prompt_tokens,
                cached_tokens=sequence.num_cached_tokens or 0,
                completion_tokens=sequence.num_completion_tokens,
                queued_s=queued_s,
                prefill_s=prefill_s,
                decode_s=decode_s,
                choice=sequence.choice,
                num_left=num_left,
                late_tokens=late_tokens,
            )
        )

    def fail(self, request_id: str, error: LavatubeError) -> None:
        """A request has failed, with all its answers."""
        self._events.append(Failed(request_id, error.code, error.sentence, error.param or ""))
