"""Which tokens of which sequences the next step computes. Decides only: no tensors, no clock, no I/O.

Continuous batching: a sequence joins and leaves between two steps. Each step has a budget of tokens. The rows of
sequences that decode come first, so a stream never waits for another's prompt to end; what is left goes to prompts in
order of arrival, cut into chunks, and a short one need not wait for the end of a long one. When blocks run out the
newest sequence gives up its own and is computed again later. What a prompt has in common with what is in the cache is
not computed; what it has in common with one that is being computed is waited for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as Sequences
from typing import Final

import msgspec

from lavatube.engine.blocks import BlockAllocator
from lavatube.engine.chunk import Chunk, cut
from lavatube.engine.sequence import Sequence, SequenceState
from lavatube.engine.speculator import Speculator

MUCH_SHORTER: Final = 4
"""How many times as long a prompt must be as one that need not wait for its end."""


class Scheduler:
    """The queue, the running sequences and their blocks.

    Both are oldest first, and all that run are older than all that wait, but for choices that found no room to fork.
    """

    def __init__(
        self,
        blocks: BlockAllocator,
        max_sequences: int,
        max_step_tokens: int,
        *,
        is_reusing: bool = True,
        speculator: Speculator | None = None,
    ) -> None:
        """`is_reusing`: blocks are found again by what is in them."""
        self.blocks = blocks
        self.speculator = speculator
        self.is_reusing = is_reusing
        self.max_sequences = max_sequences
        self.max_step_tokens = max(max_step_tokens, max_sequences)  # below that, decoding rows would not fit
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_prompt_tokens = 0  # of all that ever began
        self.num_cached_tokens = 0  # of these, what was found in the cache

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def num_claimed(self) -> int:
        """Sequences that run, and those that will when the prompts before them are computed."""
        return len(self.running) + sum(len(sequence.siblings) for sequence in self.running)

    def add(self, sequence: Sequence) -> None:
        """Put a sequence at the end of the queue; it must fit the cache when it is alone."""
        assert sequence.num_prompt_tokens + sequence.sampling.max_tokens <= self.blocks.num_tokens
        sequence.move(SequenceState.WAITING)
        self.waiting.append(sequence)

    def finish(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it stands, and free what it holds."""
        if sequence.state is SequenceState.RUNNING:
            self.running.remove(sequence)
        elif sequence.state is SequenceState.WAITING:
            self.waiting.remove(sequence)
        self.blocks.release(sequence.block_table)
        sequence.forget()
        sequence.move(SequenceState.FINISHED)

    def fork(self, sequence: Sequence) -> list[tuple[int, int]]:
        """Let the siblings of a sequence begin, now that their prompt is computed; returns blocks to copy, (from, to).

        One for which there is no room goes to the head of the queue, and computes the prompt for itself later.
        """
        siblings, sequence.siblings = sequence.siblings, []
        for sibling in siblings:
            sibling.num_cached_tokens = sequence.num_cached_tokens
        copies, excluded = [], []
        place = self.running.index(sequence) + 1
        for sibling in siblings:
            if len(self.running) < self.max_sequences and self.blocks.can_fork(sequence.num_computed_tokens):
                copies += self.blocks.fork(sequence.block_table, sibling.block_table, sequence.num_computed_tokens)
                sibling.move(SequenceState.RUNNING)
                sibling.compute(sequence.num_computed_tokens)
                sibling.block_keys = list(sequence.block_keys)
                sibling.num_remembered_blocks = sequence.num_remembered_blocks
                self.running.insert(place, sibling)
                place += 1
            else:
                sibling.move(SequenceState.WAITING)
                excluded.append(sibling)
        self.waiting.extendleft(reversed(excluded))
        return copies

    def remember(self, sequence: Sequence) -> None:
        """Let others find the full blocks that are computed; call it only when what was computed is sound."""
        first, num_full = sequence.num_remembered_blocks, sequence.num_computed_tokens // self.blocks.block_size
        if not self.is_reusing or num_full == first:
            return
        keys = sequence.keys_of_blocks(num_full, self.blocks.block_size)
        for block, key in zip(sequence.block_table[first:num_full], keys[first:], strict=True):
            self.blocks.remember(block, key)
        sequence.num_remembered_blocks = num_full

    @property
    def is_decoding(self) -> bool:
        """Whether a stream waits for its next token."""
        return any(sequence.num_uncomputed_tokens == 1 for sequence in self.running)

    @property
    def is_prefilling(self) -> bool:
        """Whether a prompt could be computed, in part at least."""
        return bool(self.waiting) or any(
            min(sequence.num_ready_tokens, sequence.num_tokens - 1) > sequence.num_computed_tokens
            for sequence in self._begun
        )

    @property
    def num_without_token(self) -> int:
        """Prompts that are not computed yet."""
        return len(self.waiting) + len(self._begun)

    @property
    def _begun(self) -> list[Sequence]:
        """Those whose prompt, or recomputation, is under way."""
        return [sequence for sequence in self.running if sequence.num_uncomputed_tokens > 1]

    @property
    def images_ahead(self) -> list[tuple[Sequence, int]]:
        """Images of prompts that are being computed, by the order of their sequences."""
        return [(sequence, index) for sequence in self._begun for index in sequence.images_ahead]

    def schedule(self, max_prompt_tokens: int | None = None) -> list[Chunk]:
        """The chunks of the next step, at most `max_step_tokens` tokens in all, decoding rows first.

        With `max_prompt_tokens` there are at most so many of prompts, and none of an image that is not encoded yet: for
        a step that streams wait for.
        """
        chunks = self._guess(self._decode_chunks())
        if self.num_without_token == 0:
            return chunks
        budget = self.max_step_tokens - sum(chunk.num_rows for chunk in chunks)
        if max_prompt_tokens is None:
            return chunks + self._prefill_chunks(budget, must_be_ready=False)
        return chunks + self._prefill_chunks(min(budget, max_prompt_tokens), must_be_ready=True)

    def schedule_behind(self, chunks: Sequences[Chunk]) -> list[Chunk]:
        """The step behind one that decodes these, while nobody knows what it will say: a token more of each.

        Whoever that one brings to full length is left out. Nothing where the next step may do anything else: somebody
        waits for whom there is a place, or computes a prompt, a guess could be made, or somebody had to make room.
        """
        is_guessing = self.speculator is not None and self.speculator.is_on
        if len(chunks) < len(self.running) or is_guessing:
            return []
        behind = [Chunk(chunk.sequence, chunk.end, chunk.end + 1) for chunk in chunks if chunk.sequence.num_left > 1]
        if self.waiting and len(behind) < self.max_sequences:
            return []
        growing = [chunk for chunk in behind if not self.blocks.holds(chunk.sequence.block_table, chunk.end)]
        if len(growing) > self.blocks.num_free:
            return []
        for chunk in growing:
            self.blocks.grow(chunk.sequence.block_table, chunk.end)
        return behind

    def let_in(self) -> list[list[Chunk]]:
        """Whoever there is room for, each with all of its prompt: cut as it would be if it were alone.

        For prompts that go on together whatever the budget of a step is; what they have in common is not waited for.
        """
        found = []
        while sequence := self._admit(is_reusing=False):
            length, step = sequence.num_tokens, self.max_step_tokens
            found.append([Chunk(sequence, start, min(start + step, length)) for start in range(0, length, step)])
        return found

    def _decode_chunks(self) -> list[Chunk]:
        chunks = []
        for sequence in list(self.running):  # a copy: making room takes from its end
            start, end = sequence.num_computed_tokens, sequence.num_tokens
            is_decoding = end - start == 1 and sequence.state is SequenceState.RUNNING
            if is_decoding and self._make_room(sequence):
                chunks.append(Chunk(sequence, start, end))
        return chunks

    def _guess(self, chunks: list[Chunk]) -> list[Chunk]:
        """Decoding chunks with what may come next, where nobody has to make room for it."""
        if self.speculator is None or not self.speculator.is_on:
            return chunks
        num_rows = len(chunks)
        found = []
        for chunk in chunks:
            guess = self.speculator.guess(chunk.sequence, num_rows)[: self.max_step_tokens - num_rows]
            if guess and self.blocks.can_grow(chunk.sequence.block_table, chunk.end + len(guess)):
                self.blocks.grow(chunk.sequence.block_table, chunk.end + len(guess))
                num_rows += len(guess)
                found.append(msgspec.structs.replace(chunk, guess=guess))
            else:
                found.append(chunk)
        return found

    def _prefill_chunks(self, budget: int, *, must_be_ready: bool) -> list[Chunk]:
        """In order of arrival; but half of the budget is for prompts that are much shorter than the first."""
        begun = self._begun
        chunks = cut(self._much_shorter(begun), budget // 2, must_be_ready=must_be_ready)
        left = budget - sum(chunk.num_rows for chunk in chunks)
        served = [chunk.sequence for chunk in chunks]
        rest = (sequence for sequence in self._in_order(begun) if sequence not in served)
        return chunks + cut(rest, left, must_be_ready=must_be_ready)

    def _in_order(self, begun: Sequences[Sequence]) -> Iterator[Sequence]:
        """Those, and then whoever waits; he is let in when he is asked for."""
        yield from begun
        while sequence := self._admit():
            yield sequence

    def _much_shorter(self, begun: Sequences[Sequence]) -> Iterator[Sequence]:
        """Those of the others that need a fraction of what the first does, and who waits next if he is one of them."""
        if begun:
            most = begun[0].num_uncomputed_tokens // MUCH_SHORTER
            yield from [sequence for sequence in begun if sequence.num_uncomputed_tokens <= most]
            while self.waiting and self.waiting[0].num_tokens <= most and (sequence := self._admit()):
                yield sequence

    def _admit(self, *, is_reusing: bool = True) -> Sequence | None:
        """Let the oldest that waits run, with blocks for all its tokens, if it fits; nobody overtakes it."""
        if not self.waiting or len(self.running) == self.max_sequences:
            return None
        sequence = self.waiting[0]
        if self.running and self.num_claimed + 1 + len(sequence.siblings) > self.max_sequences:
            return None
        found = self._find(sequence) if is_reusing else []
        if found is None:
            return None
        # A block more for each that runs: else the newcomer would soon be the one that makes room for them.
        spare = self.num_claimed + len(sequence.siblings) if self.running else 0  # alone it must get in
        if self.blocks.num_left(found, sequence.num_tokens) < spare:
            return None
        self._adopt(sequence, found)
        self.blocks.grow(sequence.block_table, sequence.num_tokens)
        sequence.move(SequenceState.RUNNING)
        self.running.append(self.waiting.popleft())
        return sequence

    def _find(self, sequence: Sequence) -> list[int] | None:
        """Blocks of the cache that it can begin with; None while somebody computes the next one. One token is left."""
        if not self.is_reusing:
            return []
        keys = sequence.keys_of_blocks((sequence.num_tokens - 1) // self.blocks.block_size, self.blocks.block_size)
        found = self.blocks.find(keys)
        if len(found) < len(keys):
            missing = keys[len(found)]
            if any(missing in one.block_keys for one in self.running if one.num_uncomputed_tokens > 1):
                return None
        return found

    def _adopt(self, sequence: Sequence, found: list[int]) -> None:
        is_first_time = sequence.num_cached_tokens is None
        self.blocks.adopt(sequence.block_table, found)
        num_cached_tokens = sequence.adopt(len(found) * self.blocks.block_size)
        if is_first_time:
            self.num_prompt_tokens += sequence.num_prompt_tokens
            self.num_cached_tokens += num_cached_tokens

    def _make_room(self, sequence: Sequence) -> bool:
        """Give `sequence` a slot for each of its tokens, at the cost of the newest; False when that is itself."""
        if self.blocks.holds(sequence.block_table, sequence.num_tokens):
            return True
        while not self.blocks.can_grow(sequence.block_table, sequence.num_tokens):
            newest = self.running.pop()
            self._preempt(newest)
            if newest is sequence:
                return False
        self.blocks.grow(sequence.block_table, sequence.num_tokens)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.blocks.release(sequence.block_table)
        sequence.forget()
        sequence.move(SequenceState.WAITING)
        self.waiting.appendleft(sequence)

    def check_integrity(self) -> None:
        """Assert that no block is lost, and that only what runs holds any."""
        assert all(sequence.state is SequenceState.RUNNING for sequence in self.running)
        assert all(sequence.state is SequenceState.WAITING and not sequence.block_table for sequence in self.waiting)
        self.blocks.check_integrity(sequence.block_table for sequence in self.running)
