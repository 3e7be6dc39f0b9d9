"""The scheduler's laws, on any load: budget kept, streams first, order fair, nothing leaked, everyone finishes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavatube.engine.blocks import BlockAllocator
from lavatube.engine.chunk import Chunk
from lavatube.engine.lookup import Lookup
from lavatube.engine.scheduler import Scheduler
from lavatube.engine.sequence import Sequence, SequenceState
from lavatube.engine.speculator import Speculator
from lavatube.engine.wire import Sampling

BLOCK_SIZE = 4


def sequence(name: str, num_prompt_tokens: int, max_tokens: int, salt: str | None = None) -> Sequence:
    """All prompts begin alike, but only those with the same salt know."""
    salt = name if salt is None else salt
    return Sequence(name, list(range(num_prompt_tokens)), num_prompt_tokens, Sampling(max_tokens), salt=salt.encode())


def scheduler(num_blocks: int = 16, max_sequences: int = 4, max_step_tokens: int = 8) -> Scheduler:
    return Scheduler(BlockAllocator(num_blocks, BLOCK_SIZE), max_sequences, max_step_tokens)


def compute(scheduler: Scheduler, chunks: list[Chunk]) -> None:
    """What the engine does with a step, with the position as the sampled id."""
    sampling = [chunk.sequence for chunk in chunks if chunk.is_sampling]
    for chunk in chunks:
        chunk.sequence.compute(chunk.end)
        scheduler.remember(chunk.sequence)
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


def test_guesses_keep_to_the_budget() -> None:
    one = Scheduler(BlockAllocator(16, BLOCK_SIZE), 1, 3, speculator=Speculator(7, placeholder_id=99))
    repetitive = Sequence("a", [5, 6] * 6, 12, Sampling(9))
    one.add(repetitive)
    for _ in range(4):
        compute(one, one.schedule())
    repetitive.token_ids[-1] = 5  # what is sampled here is the position
    repetitive.lookup = Lookup(7, placeholder_id=99)
    repetitive.lookup.learn(2, 2, 12)  # so that it would guess more
    (chunk,) = one.schedule()
    assert (chunk.guess, chunk.num_rows) == ((6, 5), 3)


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


def test_a_short_prompt_does_not_wait_for_the_end_of_a_long_one() -> None:
    one = scheduler(max_step_tokens=8)
    one.add(sequence("long", 40, 2))
    compute(one, one.schedule())
    one.add(sequence("short", 6, 2))
    steps = []
    for _ in range(3):
        chunks = one.schedule()
        steps.append(rows(chunks))
        compute(one, chunks)
    assert steps == [
        [("short", 0, 4), ("long", 8, 12)],
        [("short", 4, 6), ("long", 12, 18)],
        [("short", 6, 7), ("long", 18, 25)],
    ]


def test_short_prompts_leave_a_long_one_half_of_each_step() -> None:
    one = scheduler(num_blocks=32, max_sequences=8, max_step_tokens=8)
    one.add(sequence("long", 40, 1))
    compute(one, one.schedule())
    for number in range(7):
        one.add(sequence(f"{number}", 4, 1))
    for _ in range(4):
        chunks = one.schedule()
        assert sum(chunk.num_rows for chunk in chunks if chunk.sequence.request_id == "long") >= 4
        compute(one, chunks)


def test_no_short_prompt_is_let_in_before_a_step_has_room_for_it() -> None:
    one = scheduler(num_blocks=64, max_sequences=8, max_step_tokens=8)
    one.add(sequence("long", 40, 1))
    compute(one, one.schedule())
    for number in range(5):
        one.add(sequence(f"{number}", 4, 1))
    assert rows(one.schedule()) == [("0", 0, 4), ("long", 8, 12)]
    assert [running.request_id for running in one.running] == ["long", "0"]


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
    assert (chunks[-1].start, chunks[-1].end) == (4, new.num_tokens), "its first block was still there"


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
    salt: str


@st.composite
def loads(draw: st.DrawFn) -> tuple[Scheduler, list[Arrival]]:
    num_blocks = draw(st.integers(2, 14))
    one = scheduler(num_blocks, draw(st.integers(1, 5)), draw(st.integers(1, 24)))
    capacity = num_blocks * BLOCK_SIZE
    arrivals = []
    for step in sorted(draw(st.lists(st.integers(0, 20), min_size=1, max_size=10))):
        length = draw(st.integers(1, capacity - 1))
        max_tokens = draw(st.integers(1, capacity - length))
        salt = draw(st.sampled_from(["", "a", "b"]))
        arrivals.append(Arrival(step, length, max_tokens, draw(st.none() | st.integers(0, 10)), salt))
    return one, arrivals


@given(loads())
@settings(max_examples=200, deadline=None)
def test_laws_under_any_load(load: tuple[Scheduler, list[Arrival]]) -> None:
    one, arrivals = load
    born = [
        sequence(str(index), arrival.num_prompt_tokens, arrival.max_tokens, arrival.salt)
        for index, arrival in enumerate(arrivals)
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


def test_a_prompt_that_begins_like_another_shares_its_blocks() -> None:
    one = scheduler(max_step_tokens=32)
    first, second, stranger = sequence("a", 10, 2, "x"), sequence("b", 13, 2, "x"), sequence("c", 13, 2, "y")
    one.add(first)
    compute(one, one.schedule())
    one.add(second)
    one.add(stranger)
    assert rows(one.schedule()) == [("a", 10, 11), ("b", 8, 13), ("c", 0, 13)]
    assert second.block_table[:2] == first.block_table[:2]
    assert not set(stranger.block_table) & set(first.block_table + second.block_table)
    assert (first.num_cached_tokens, second.num_cached_tokens, stranger.num_cached_tokens) == (0, 8, 0)
    one.check_integrity()


def test_what_another_computes_just_now_is_waited_for() -> None:
    one = scheduler(num_blocks=32, max_step_tokens=12)
    for name in "ab":
        one.add(sequence(name, 20, 2, "x"))
    steps = []
    for _ in range(3):
        chunks = one.schedule()
        steps.append(rows(chunks))
        compute(one, chunks)
    assert steps == [[("a", 0, 12)], [("a", 12, 20)], [("a", 20, 21), ("b", 16, 20)]]


def test_one_token_is_always_left_to_compute() -> None:
    one = scheduler()
    one.add(sequence("a", 8, 1, "x"))
    compute(one, one.schedule())
    one.add(sequence("b", 8, 1, "x"))
    assert rows(one.schedule()) == [("b", 4, 8)]


def test_blocks_in_use_are_never_taken_for_others() -> None:
    """Of what is remembered, what nobody uses goes, the tail of a prompt before its head."""
    one = scheduler(num_blocks=6, max_sequences=2, max_step_tokens=64)
    old = sequence("old", 11, 1)
    one.add(old)
    compute(one, one.schedule())
    assert old.state is SequenceState.FINISHED
    again = sequence("again", 11, 9, "old")
    one.add(again)
    compute(one, one.schedule())
    assert again.num_cached_tokens == 8
    held = list(again.block_table[:2])
    one.add(sequence("other", 8, 1))
    compute(one, one.schedule())
    one.check_integrity()
    assert list(again.block_table[:2]) == held


def check_step(one: Scheduler, chunks: list[Chunk], decoding: list[Sequence]) -> None:
    one.check_integrity()
    assert chunks or not one.has_work, "there is work, and nothing was scheduled"
    assert sum(chunk.end - chunk.start for chunk in chunks) <= one.max_step_tokens
    scheduled = [chunk.sequence for chunk in chunks]
    assert len(set(map(id, scheduled))) == len(scheduled) <= one.max_sequences
    kept = [item for item in decoding if item.state is SequenceState.RUNNING]
    # Not always first: one that had to make room may come back in the same step, by what others have computed.
    assert set(map(id, kept)) <= set(map(id, scheduled)), "a stream stalled"
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
