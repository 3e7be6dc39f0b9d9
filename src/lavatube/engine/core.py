"""Requests in, events out, one step at a time: the whole engine, without process, thread or socket around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from lavatube.engine.admission import admit
from lavatube.engine.ahead import Ahead
from lavatube.engine.answers import Answers
from lavatube.engine.blocks import BlockAllocator
from lavatube.engine.capacity import BLOCK_SIZE
from lavatube.engine.chunk import Chunk
from lavatube.engine.compiling import Compiled, GrammarQueue
from lavatube.engine.encoder import Encoder
from lavatube.engine.feature_files import FeatureFiles
from lavatube.engine.features import FeatureCache
from lavatube.engine.grammar import Grammars, Matcher
from lavatube.engine.pace import Pace, Work
from lavatube.engine.runner import Runner
from lavatube.engine.sampler import Sampler
from lavatube.engine.scheduler import Scheduler
from lavatube.engine.sequence import Sequence, SequenceState
from lavatube.engine.speculator import Speculator
from lavatube.engine.wave import Wave
from lavatube.engine.wire import CacheCounts, GapCounts, GuessCounts, RequestEvent, Submit
from lavatube.errors import RequestError
from lavatube.model.attention import KVCache
from lavatube.model.gate import Gate
from lavatube.model.llava import Llava
from lavatube.model.replay import Record, Replay
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
        token_texts: list[bytes] | None = None,
        image_cache_bytes: int = 0,
        image_files: FeatureFiles | None = None,
        is_reusing: bool = True,
        max_guess: int = 0,
        gate: Gate | None = None,
        record: Record | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`num_token_ids` is how many ids the tokenizer knows, 0: all; `token_texts` what each says, for grammars.

        `is_reusing`: what two prompts have in common from their beginning on is computed once. `max_guess` tokens of an
        answer are guessed ahead. `gate`: the weights of the model are still to come. `record`: steps that only decode
        are recorded by it, and replayed, one ahead where that can be.
        """
        # One block more than there are to give, for the rows of a recorded step that nobody needs.
        cache = KVCache.allocate(
            spec.language, num_blocks + (record is not None), BLOCK_SIZE, model.dtype, model.device
        )
        vocab_size = spec.language.vocab_size
        sampler = Sampler(vocab_size, [spec.image_token_id], num_token_ids or vocab_size, model.device)
        self.device, self.dtype = str(model.device), str(model.dtype).removeprefix("torch.")
        self._spec = spec
        self._features = FeatureCache(image_cache_bytes)
        max_blocks = -(-spec.language.max_positions // BLOCK_SIZE)
        replay = record and Replay(model, cache, num_blocks, max_sequences, max_blocks, record)
        self._runner = Runner(model, Encoder(model, self._features), cache, sampler, replay)
        blocks = BlockAllocator(num_blocks, BLOCK_SIZE)
        self._speculator = Speculator(max_guess, spec.image_token_id)
        self._scheduler = Scheduler(
            blocks, max_sequences, max_step_tokens, is_reusing=is_reusing, speculator=self._speculator
        )
        self._grammars = GrammarQueue(Grammars(token_texts or [], spec.stop_token_ids, vocab_size))
        self._ahead = Ahead(self._scheduler, self._runner)
        self._answers = Answers(self._scheduler, self._runner, self._speculator, self._let_go, clock)
        self._wave = None if gate is None else Wave(self._runner, gate)
        self._image_files = image_files
        if gate is None:
            self._features.files = image_files
        self._pace = Pace()
        self._clock = clock

    @property
    def has_work(self) -> bool:
        """Whether a step would compute or say something."""
        is_computing = self._scheduler.has_work or self._ahead.is_under_way
        return self._answers.has_events or is_computing or len(self._grammars) > 0

    @property
    def progress(self) -> int:
        """Grows with each layer and each step; as long as there is work, a standstill is a hang."""
        return self._answers.num_settled + self._runner.num_layers_run

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
    def caches(self) -> CacheCounts:
        """What reuse has saved since the start."""
        return CacheCounts(
            image_hits=self._features.num_hits,
            image_disk_hits=0 if self._image_files is None else self._image_files.num_hits,
            image_misses=self._features.num_misses,
            prompt_tokens=self._scheduler.num_prompt_tokens,
            cached_tokens=self._scheduler.num_cached_tokens,
        )

    @property
    def guesses(self) -> GuessCounts:
        return GuessCounts(self._speculator.num_guessed, self._speculator.num_right)

    @property
    def gaps(self) -> GapCounts:
        return self._answers.gaps.counts

    @property
    def max_context_tokens(self) -> int:
        """Prompt and answer of one request: what the model was trained for and the cache holds."""
        return min(self._spec.language.max_positions, self.cache_tokens)

    def bind(self) -> None:
        """From now on the calling thread is the one that computes."""
        self._runner.bind()

    def submit(self, submit: Submit) -> None:
        """Take a request; one with bad data fails, alone, with the next step's events."""
        assert not self._answers.of(submit.request_id), f"request {submit.request_id} is already here"
        try:
            sequences = admit(submit, self._spec, self.max_context_tokens, self._clock())
        except RequestError as error:
            self._answers.refuse(submit.request_id, error)
            return
        self._answers.add(submit.request_id, sequences)
        if submit.sampling.grammar:
            self._grammars.add(submit.request_id, submit.sampling.grammar, sequences)
            return
        for sequence in sequences:
            self._begin(sequence)

    def abort(self, request_id: str, choice: int | None = None, sent_s: float = 0.0) -> None:
        """End a request, or one choice that has begun, and free what it holds, now; what has ended is no matter.

        Tokens computed after `sent_s`, by this engine's clock, are told as late; 0: none are.
        """
        for sequence in self._answers.of(request_id):
            has_begun = sequence.num_completion_tokens > 0
            if choice is None or (sequence.choice == choice and has_begun):
                num_late = sequence.num_tokens_since(sent_s) + self._ahead.has(sequence) if sent_s else 0
                self._answers.finish(sequence, "abort", num_late)

    def step(self) -> list[RequestEvent]:
        """Compute the next tokens of whoever is scheduled.

        Raises: whatever the model raises; then nothing here can be trusted, and the process should end.
        """
        for compiled in self._grammars.take(is_idle=not self._answers.has_events and not self._scheduler.has_work):
            self._constrain(compiled)
        if self._wave is not None:
            self._follow(self._wave)
            return self._answers.take()
        begun_s = self._clock()
        if self._ahead.is_under_way:
            self._answers.settle(*self._ahead.finish())
            self._pace.observe(Work(), self._clock() - begun_s)
            return self._answers.take()
        is_awaited = self._scheduler.is_decoding
        work = self._begin_prompts() if is_awaited else None
        chunks = self._scheduler.schedule(None if work is None else work.num_prompt_tokens)
        if chunks:
            self._compute(chunks)
        if work is not None:
            num_prompt_tokens = sum(chunk.end - chunk.start for chunk in chunks if chunk.end - chunk.start > 1)
            self._pace.observe(Work(work.num_layers, num_prompt_tokens), self._clock() - begun_s)
        return self._answers.take()

    def tend(self) -> None:
        """Between two steps, when all is told: what makes later steps faster, and, at rest, what nobody needs."""
        self._runner.record()
        if not self.has_work:
            self._runner.drop_images()

    def check_integrity(self) -> None:
        """Assert that no block is lost, and that no finished request is remembered."""
        self._scheduler.check_integrity()
        sequences = self._answers.sequences
        num_expected = sum(sequence.state is SequenceState.EXPECTED for sequence in sequences)
        assert len(sequences) == self.num_running + self.num_waiting + num_expected

    def _begin_prompts(self) -> Work:
        """What this step does for prompts while streams wait for it; of that, what is for images is done."""
        if self._scheduler.num_without_token == 0:
            return Work()
        ahead = self._scheduler.images_ahead
        work = self._pace.plan(
            has_images=bool(ahead),
            has_prompts=self._scheduler.is_prefilling,
            num_waiting=self._scheduler.num_without_token,
        )
        num_layers = self._runner.advance_images(ahead, work.num_layers) if work.num_layers else 0
        return Work(num_layers, work.num_prompt_tokens)

    def _follow(self, wave: Wave) -> None:
        """Take prompts as far as weights are here."""
        for prompt in self._scheduler.let_in() if wave.is_needed else ():
            self._note_begin(prompt)
            wave.add(prompt)
        for pieces, results in wave.advance():
            self._answers.settle(pieces, results)
        if wave.is_over:
            self._wave = None
            self._features.files = self._image_files  # only now is it known that the weights are right

    def _compute(self, chunks: list[Chunk]) -> None:
        self._note_begin(chunks)
        self._answers.settle(chunks, self._ahead.run(chunks))

    def _note_begin(self, chunks: Iterable[Chunk]) -> None:
        scheduled_s = self._clock()
        for chunk in chunks:
            if chunk.sequence.scheduled_s is None:
                chunk.sequence.scheduled_s = scheduled_s

    def _begin(self, sequence: Sequence, *, is_over: bool = False) -> None:
        """Put it into the queue. An answer may be whole, of which only the end was not heard."""
        self._scheduler.add(sequence)
        if is_over:
            self._answers.finish(sequence, "stop")
        else:
            self._answers.finish_if_long(sequence)

    def _constrain(self, compiled: Compiled) -> None:
        """Begin a request whose grammar is ready: each of its choices with a matcher of its own."""
        matcher = compiled.matcher
        if not isinstance(matcher, Matcher):
            self._answers.fail(compiled.sequences[0], matcher)
            return
        for sequence in compiled.sequences:
            if sequence.state is SequenceState.FINISHED:
                continue  # one choice of an answer that goes on here was aborted meanwhile
            sequence.matcher = matcher.copy()
            is_over = sequence.matcher.follow(sequence.token_ids[sequence.num_prompt_tokens :])
            for sibling in sequence.siblings:
                sibling.matcher = sequence.matcher.copy()
            self._begin(sequence, is_over=is_over)

    def _let_go(self, sequence: Sequence, num_left: int) -> None:
        """A sequence has ended, and so many other choices of its request go on: nobody works for it any more."""
        if self._wave is not None:
            self._wave.discard(sequence)
        self._scheduler.finish(sequence)
        if num_left == 0:
            self._grammars.discard(sequence.request_id)
