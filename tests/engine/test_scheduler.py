"""The scheduler's laws, on any load: budget kept, streams first, order fair, nothing leaked, everyone finishes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavatube.engine.blocks import BlockAllocator
from lavatube.engine.scheduler import Chunk, Scheduler
from lavatube.engine.sequence import Sequence, SequenceState
from lavatube.engine.wire import Sampling

BLOCK_SIZE = 4


def sequence(name: str, num_prompt_tokens: int, max_tokens: int) -> Sequence:
    return Sequence(name, list(range(num_prompt_tokens)), num_prompt_tokens, Sampling(max_tokens))


def scheduler(num_blocks: int = 16, max_sequences: int = 4, max_step_tokens: int = 8) -> Scheduler:
    return Scheduler(BlockAllocator(num_blocks, BLOCK_SIZE), max_sequences, max_step_tokens)


def compute(scheduler: Scheduler, chunks: list[Chunk]) -> None:
    """What the engine does with a step, with the position as the sampled id."""
    sampling = [chunk.sequence for chunk in chunks if chunk.is_sampling]
    for chunk in chunks:
        chunk.sequence.compute(chunk.end)
    for one in sampling:
        one.token_ids.append(one.num_tokens)
        if one.num_completion_tokens == one.sampling.max_tokens:
            scheduler.finish(one)


def rows(chunks: list[Chunk]) -> list[tuple[str, int, int]]:
    return [(chunk.sequence.request_id, chunk.start, chunk.end) for chunk in chunks]


def test_a_long_prompt_is_cut_by_the_budget() -> None:
    one = scheduler(max_step_tokens=8)
    one.add(sequence("a", 18, 2))
    steps = []
    while one.has_work:
        chunks = one.schedule()
        steps.append(rows(chunks))
        compute(one, chunks)
    assert steps == [[("a", 0, 8)], [("a", 8, 16)], [("a", 16, 18)], [("a", 18, 19)]]


def test_a_newcomer_joins_between_two_steps_and_streams_go_on() -> None:
    one = scheduler(max_step_tokens=8)
    one.add(sequence("a", 3, 9))
    compute(one, one.schedule())
    one.add(sequence("b", 20, 2))
    chunks = one.schedule()
    assert rows(chunks) == [("a", 3, 4), ("b", 0, 7)]
    compute(one, chunks)
    assert rows(one.schedule()) == [("a", 4, 5), ("b", 7, 14)]


def test_two_prompts_share_a_step_in_order_of_arrival() -> None:
    one = scheduler(max_step_tokens=8)
    one.add(sequence("a", 5, 2))
    one.add(sequence("b", 5, 2))
    assert rows(one.schedule()) == [("a", 0, 5), ("b", 0, 3)]


def test_nobody_overtakes_a_head_that_does_not_fit() -> None:
    one = scheduler(num_blocks=4, max_step_tokens=64)
    for name, length in (("a", 8), ("b", 12), ("c", 1)):
        one.add(sequence(name, length, 2))
    assert rows(one.schedule()) == [("a", 0, 8)]


def test_the_newest_makes_room_and_loses_nothing() -> None:
    one = scheduler(num_blocks=5, max_step_tokens=64)
    old, new = sequence("old", 7, 8), sequence("new", 5, 8)
    one.add(old)
    one.add(new)
    while new.num_completion_tokens < 4:
        compute(one, one.schedule())
    so_far = list(new.token_ids)
    while new.state is SequenceState.RUNNING:
        chunks = one.schedule()
        compute(one, chunks)
    assert old.state is SequenceState.RUNNING
    assert new.num_computed_tokens == 0
    assert new.token_ids[: len(so_far)] == so_far
    while new.state is SequenceState.WAITING:
        chunks = one.schedule()
        if chunks[-1].sequence is not new:
            compute(one, chunks)
    assert (chunks[-1].start, chunks[-1].end) == (0, new.num_tokens)


def test_finishing_frees_from_queue_and_from_running() -> None:
    one = scheduler(max_sequences=1)
    running, waiting = sequence("a", 5, 2), sequence("b", 5, 2)
    one.add(running)
    one.add(waiting)
    one.schedule()
    one.finish(waiting)
    one.finish(running)
    assert not one.has_work
    assert one.blocks.num_free == one.blocks.num_blocks


def test_a_budget_below_the_number_of_streams_is_raised_to_it() -> None:
    assert scheduler(max_sequences=4, max_step_tokens=1).max_step_tokens == 4


@dataclass(frozen=True)
class Arrival:
    step: int
    num_prompt_tokens: int
    max_tokens: int
    aborted_after: int | None


@st.composite
def loads(draw: st.DrawFn) -> tuple[Scheduler, list[Arrival]]:
    num_blocks = draw(st.integers(2, 14))
    one = scheduler(num_blocks, draw(st.integers(1, 5)), draw(st.integers(1, 24)))
    capacity = num_blocks * BLOCK_SIZE
    arrivals = []
    for step in sorted(draw(st.lists(st.integers(0, 20), min_size=1, max_size=10))):
        length = draw(st.integers(1, capacity - 1))
        max_tokens = draw(st.integers(1, capacity - length))
        arrivals.append(Arrival(step, length, max_tokens, draw(st.none() | st.integers(0, 10))))
    return one, arrivals


@given(loads())
@settings(max_examples=200, deadline=None)
def test_laws_under_any_load(load: tuple[Scheduler, list[Arrival]]) -> None:
    one, arrivals = load
    born = [
        sequence(str(index), arrival.num_prompt_tokens, arrival.max_tokens) for index, arrival in enumerate(arrivals)
    ]
    first_seen: list[int] = []
    bound = 30 + 2 * sum((arrival.num_prompt_tokens + arrival.max_tokens) for arrival in arrivals) * len(arrivals)
    step = 0
    while step <= 20 or one.has_work:
        assert step < bound, "somebody starves"
        for arrival, newcomer in zip(arrivals, born, strict=True):
            if arrival.step == step:
                one.add(newcomer)
            is_aborted = arrival.aborted_after is not None and step == arrival.step + arrival.aborted_after
            if is_aborted and newcomer.state is not SequenceState.FINISHED:
                one.finish(newcomer)
        decoding = [item for item in one.running if item.num_uncomputed_tokens == 1]
        chunks = one.schedule()
        check_step(one, chunks, decoding)
        first_seen += [born.index(chunk.sequence) for chunk in chunks if born.index(chunk.sequence) not in first_seen]
        compute(one, chunks)
        one.check_integrity()
        step += 1
    assert one.blocks.num_free == one.blocks.num_blocks
    assert first_seen == sorted(first_seen)
    for arrival, item in zip(arrivals, born, strict=True):
        assert item.state is SequenceState.FINISHED
        assert item.token_ids == list(range(item.num_tokens)), "a token was lost or doubled"
        if arrival.aborted_after is None:
            assert item.num_completion_tokens == arrival.max_tokens


def check_step(one: Scheduler, chunks: list[Chunk], decoding: list[Sequence]) -> None:
    one.check_integrity()
    assert chunks or not one.has_work, "there is work, and nothing was scheduled"
    assert sum(chunk.end - chunk.start for chunk in chunks) <= one.max_step_tokens
    scheduled = [chunk.sequence for chunk in chunks]
    assert len(set(map(id, scheduled))) == len(scheduled) <= one.max_sequences
    kept = [item for item in decoding if item.state is SequenceState.RUNNING]
    assert scheduled[: len(kept)] == kept, "a stream stalled"
    assert decoding[: len(kept)] == kept, "an older one made room for a newer one"
    for chunk in chunks:
        assert chunk.start == chunk.sequence.num_computed_tokens < chunk.end
        assert len(chunk.sequence.block_table) * BLOCK_SIZE >= chunk.end
    running, waiting = ([int(item.request_id) for item in items] for items in (one.running, one.waiting))
    assert running + waiting == sorted(running + waiting), "someone overtook"


@pytest.mark.parametrize("num_prompt_tokens", [15, 16, 17])
def test_an_answer_that_fills_the_cache_to_the_last_token(num_prompt_tokens: int) -> None:
    one = scheduler(num_blocks=5)
    only = sequence("a", num_prompt_tokens, 20 - num_prompt_tokens)
    one.add(only)
    while one.has_work:
        compute(one, one.schedule())
    assert only.num_tokens == 20
