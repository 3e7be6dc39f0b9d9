"""What was sampled in, events out: every answer from its request's Submit to its Done or Failed."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Sequences

from lavatube.engine.chunk import Chunk
from lavatube.engine.gaps import Gaps
from lavatube.engine.launched import Results
from lavatube.engine.outbox import Outbox
from lavatube.engine.runner import Runner
from lavatube.engine.sampler import Choice
from lavatube.engine.scheduler import Scheduler
from lavatube.engine.sequence import Sequence, SequenceState
from lavatube.engine.speculator import Speculator
from lavatube.engine.wire import RequestEvent
from lavatube.errors import EngineNumericalError, LavatubeError


class Answers:
    """The requests that are here, each with those of its choices that have not ended."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        speculator: Speculator,
        let_go: Callable[[Sequence, int], None],
        clock: Callable[[], float],
    ) -> None:
        """`let_go` is told of each sequence that ends, and how many other choices of its request go on."""
        self.gaps = Gaps()
        self.num_settled = 0  # steps
        self._scheduler = scheduler
        self._runner = runner
        self._speculator = speculator
        self._let_go = let_go
        self._clock = clock
        self._requests: dict[str, list[Sequence]] = {}
        self._outbox = Outbox()

    @property
    def has_events(self) -> bool:
        return len(self._outbox) > 0

    @property
    def sequences(self) -> list[Sequence]:
        """All that have not ended."""
        return [sequence for choices in self._requests.values() for sequence in choices]

    def of(self, request_id: str) -> list[Sequence]:
        """The choices of one request that have not ended; none of one that has, or was never here."""
        return list(self._requests.get(request_id, ()))

    def take(self) -> list[RequestEvent]:
        """What there is to tell, in order."""
        return self._outbox.take()

    def add(self, request_id: str, sequences: Sequences[Sequence]) -> None:
        """A request comes, with its choices: these and their siblings."""
        self._requests[request_id] = [one for sequence in sequences for one in (sequence, *sequence.siblings)]

    def refuse(self, request_id: str, error: LavatubeError) -> None:
        """A request fails that was not taken."""
        self._outbox.fail(request_id, error)

    def finish(self, sequence: Sequence, reason: str, late_tokens: int = 0) -> None:
        """One choice ends."""
        num_left = self._forget(sequence)
        self._outbox.end(sequence, reason, self._clock(), num_left=num_left, late_tokens=late_tokens)

    def finish_if_long(self, sequence: Sequence) -> None:
        """One choice ends if it has all the tokens that it may have."""
        if sequence.num_completion_tokens == sequence.sampling.max_tokens:
            self.finish(sequence, "length")

    def fail(self, sequence: Sequence, error: LavatubeError) -> None:
        """A failure is the whole request's."""
        for one in self.of(sequence.request_id):
            self._forget(one)
        self._outbox.fail(sequence.request_id, error)

    def settle(self, chunks: Sequences[Chunk], results: Results) -> None:
        """What was computed is in the cache; what was sampled is told."""
        self.num_settled += 1
        for chunk, choices in zip(chunks, results, strict=True):
            if chunk.sequence.state is SequenceState.FINISHED:
                continue  # another choice has failed, that came through at the same time
            chunk.sequence.compute(chunk.end)
            if choices is not None:
                self._scheduler.remember(chunk.sequence)
        for chunk, choices in zip(chunks, results, strict=True):
            if chunk.sequence.state is SequenceState.FINISHED:
                continue  # a sibling has failed
            if choices is None:
                self.fail(chunk.sequence, EngineNumericalError("The model's output for this request is not a number."))
            elif chunk.guess:
                self._check_guess(chunk, choices)
            elif choices:
                self._extend_all(chunk.sequence, choices)

    def _check_guess(self, chunk: Chunk, choices: list[Choice]) -> None:
        """What was sampled for a sequence and after each token of its guess; good up to the first that was wrong."""
        sequence, num_right = chunk.sequence, 0
        # The last choice has nothing to check: no guess was made at what it says, or nothing sound came of that.
        for choice, guessed in zip(choices, (*chunk.guess[: len(choices) - 1], None), strict=True):
            self._receive(sequence, choice)
            if choice.token_id != guessed or sequence.state is SequenceState.FINISHED:
                break
            sequence.compute(sequence.num_tokens)
            num_right += 1
        self._speculator.learn(sequence, len(chunk.guess), num_right)

    def _extend_all(self, sequence: Sequence, choices: list[Choice]) -> None:
        """What was sampled for a sequence and its siblings, which begin now."""
        if not sequence.siblings:
            self._receive(sequence, choices[0])
            return
        for one, choice in zip(self._fork(sequence), choices, strict=True):
            self._receive(one, choice)

    def _fork(self, sequence: Sequence) -> list[Sequence]:
        """A sequence and its siblings, which begin now."""
        siblings = sequence.siblings
        self._runner.copy_blocks(self._scheduler.fork(sequence))
        for sibling in siblings:
            sibling.scheduled_s = sequence.scheduled_s
        return [sequence, *siblings]

    def _receive(self, sequence: Sequence, choice: Choice) -> None:
        """What was sampled for a sequence."""
        if sequence.state is SequenceState.FINISHED:
            return  # a sibling has failed
        if sequence.matcher is not None and sequence.matcher.failure is not None:
            self.fail(sequence, sequence.matcher.failure)
        else:
            self._extend(sequence, choice)

    def _extend(self, sequence: Sequence, choice: Choice) -> None:
        """Add a sampled token. A stop token ends the choice and is not part of the answer."""
        now_s = self._clock()
        if sequence.first_token_s is None:
            sequence.first_token_s = now_s
        else:
            self.gaps.add(now_s - sequence.recent_tokens_s[-1])
        sequence.recent_tokens_s.append(now_s)
        if choice.token_id in sequence.sampling.stop_token_ids:
            self.finish(sequence, "stop")
            return
        self._outbox.tell(sequence, choice)
        sequence.token_ids.append(choice.token_id)
        if sequence.matcher is not None and sequence.matcher.ends_with(choice.token_id):
            self.finish(sequence, "stop")
        else:
            self.finish_if_long(sequence)

    def _forget(self, sequence: Sequence) -> int:
        """Returns how many other choices of its request go on."""
        choices = self._requests[sequence.request_id]
        choices.remove(sequence)
        if not choices:
            del self._requests[sequence.request_id]
        self._let_go(sequence, len(choices))
        return len(choices)
