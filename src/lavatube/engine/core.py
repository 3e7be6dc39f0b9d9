"""Requests in, events out, one step at a time: the whole engine, without process, thread or socket around it."""

from __future__ import annotations

import time
from collections.abc import Callable

from lavatube.engine.admission import admit
from lavatube.engine.blocks import BlockAllocator
from lavatube.engine.capacity import BLOCK_SIZE
from lavatube.engine.runner import Runner
from lavatube.engine.sampler import Sampler
from lavatube.engine.scheduler import Chunk, Scheduler
from lavatube.engine.sequence import Sequence
from lavatube.engine.wire import Done, Failed, RequestEvent, Submit, Tokens
from lavatube.errors import EngineNumericalError, RequestError
from lavatube.model.attention import KVCache
from lavatube.model.llava import Llava
from lavatube.spec import ModelSpec


class EngineCore:
    """Owns every request from its Submit to its Done or Failed. Not thread-safe: one thread calls it."""

    def __init__(
        self,
        model: Llava,
        spec: ModelSpec,
        *,
        num_blocks: int,
        max_sequences: int,
        max_step_tokens: int,
        num_token_ids: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`num_token_ids` is how many ids the tokenizer knows; 0: all of the vocabulary."""
        cache = KVCache.allocate(spec.language, num_blocks, BLOCK_SIZE, model.dtype, model.device)
        vocab_size = spec.language.vocab_size
        sampler = Sampler(vocab_size, [spec.image_token_id], num_token_ids or vocab_size, model.device)
        self.device, self.dtype = str(model.device), str(model.dtype).removeprefix("torch.")
        self._spec = spec
        self._runner = Runner(model, cache, sampler)
        self._scheduler = Scheduler(BlockAllocator(num_blocks, BLOCK_SIZE), max_sequences, max_step_tokens)
        self._sequences: dict[str, Sequence] = {}
        self._outbox: list[RequestEvent] = []
        self._clock = clock
        self._num_steps = 0

    @property
    def has_work(self) -> bool:
        """Whether a step would compute or say something."""
        return bool(self._outbox) or self._scheduler.has_work

    @property
    def progress(self) -> int:
        """Grows with each layer and each step; as long as there is work, a standstill is a hang."""
        return self._num_steps + self._runner.num_layers_run

    @property
    def num_running(self) -> int:
        return len(self._scheduler.running)

    @property
    def num_waiting(self) -> int:
        return len(self._scheduler.waiting)

    @property
    def cache_tokens(self) -> int:
        return self._scheduler.blocks.num_tokens

    @property
    def free_cache_tokens(self) -> int:
        return self._scheduler.blocks.num_free * BLOCK_SIZE

    @property
    def max_context_tokens(self) -> int:
        """Prompt and answer of one request: what the model was trained for and the cache holds."""
        return min(self._spec.language.max_positions, self.cache_tokens)

    def submit(self, submit: Submit) -> None:
        """Take a request; one with bad data fails, alone, with the next step's events."""
        assert submit.request_id not in self._sequences, f"request {submit.request_id} is already here"
        try:
            sequence = admit(submit, self._spec, self.max_context_tokens, self._clock())
        except RequestError as error:
            self._outbox.append(Failed(submit.request_id, error.code, error.sentence))
        else:
            self._sequences[submit.request_id] = sequence
            self._scheduler.add(sequence)

    def abort(self, request_id: str) -> None:
        """End a request and free what it holds, now; one that has ended already is no matter."""
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            self._finish(sequence, "abort")

    def step(self) -> list[RequestEvent]:
        """Compute the next tokens of whoever is scheduled.

        Raises: whatever the model raises; then nothing here can be trusted, and the process should end.
        """
        chunks = self._scheduler.schedule()
        if chunks:
            self._compute(chunks)
        events, self._outbox = self._outbox, []
        return events

    def check_integrity(self) -> None:
        """Assert that no block is lost or shared, and that no finished request is remembered."""
        self._scheduler.check_integrity()
        assert len(self._sequences) == self.num_running + self.num_waiting

    def _compute(self, chunks: list[Chunk]) -> None:
        scheduled_s = self._clock()
        for chunk in chunks:
            if chunk.sequence.scheduled_s is None:
                chunk.sequence.scheduled_s = scheduled_s
        token_ids = self._runner.run(chunks)
        self._num_steps += 1
        sampling = [chunk.sequence for chunk in chunks if chunk.is_sampling]
        for chunk in chunks:
            chunk.sequence.compute(chunk.end)
        for sequence, token_id in zip(sampling, token_ids, strict=True):
            if token_id is None:
                self._fail(sequence, EngineNumericalError("The model's output for this request is not a number."))
            else:
                self._extend(sequence, token_id)

    def _extend(self, sequence: Sequence, token_id: int) -> None:
        """Add a sampled token. A stop token ends the request and is not part of the answer."""
        if sequence.first_token_s is None:
            sequence.first_token_s = self._clock()
        if token_id in sequence.sampling.stop_token_ids:
            self._finish(sequence, "stop")
            return
        self._outbox.append(Tokens(sequence.request_id, sequence.num_completion_tokens, [token_id]))
        sequence.token_ids.append(token_id)
        if sequence.num_completion_tokens == sequence.sampling.max_tokens:
            self._finish(sequence, "length")

    def _finish(self, sequence: Sequence, reason: str) -> None:
        self._forget(sequence)
        queued_s, prefill_s, decode_s = sequence.durations(self._clock())
        self._outbox.append(
            Done(
                request_id=sequence.request_id,
                reason=reason,
                prompt_tokens=sequence.num_prompt_tokens,
                cached_tokens=0,
                completion_tokens=sequence.num_completion_tokens,
                queued_s=queued_s,
                prefill_s=prefill_s,
                decode_s=decode_s,
            )
        )

    def _fail(self, sequence: Sequence, error: EngineNumericalError) -> None:
        self._forget(sequence)
        self._outbox.append(Failed(sequence.request_id, error.code, error.sentence))

    def _forget(self, sequence: Sequence) -> None:
        del self._sequences[sequence.request_id]
        self._scheduler.finish(sequence)
