"""A step ahead: every answer is what it is without, whoever comes, goes, ends or fails while a step is under way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from lavatube.engine.blocks import BlockAllocator
from lavatube.engine.capacity import BLOCK_SIZE
from lavatube.engine.chunk import Chunk
from lavatube.engine.core import EngineCore
from lavatube.engine.launched import Launched, Results
from lavatube.engine.scheduler import Scheduler
from lavatube.engine.sequence import Sequence
from lavatube.engine.wire import Done, Failed, Sampling
from lavatube.model.llava import Llava
from lavatube.model.replay import Decoded
from lavatube.spec import ModelSpec
from tests.engine.ahead import LONG, build, poisoned, told, warm
from tests.engine.requests import GREEDY, SEEDED, answer, drain, run, submit
from tests.model.replaying import Recorder


def test_the_next_step_is_launched_before_the_tokens_of_the_last_are_read(
    twins: Llava, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    read = Launched.read

    def record(step: Callable[[], Decoded]) -> tuple[Callable[[], object], Decoded]:
        repeat, results = Recorder()(step)

        def launch() -> None:
            log.append("launched")
            repeat()

        return launch, results

    def reading(launched: Launched) -> Results:
        log.append("read")
        return read(launched)

    monkeypatch.setattr(Launched, "read", reading)
    core = build(twins, spec, record)
    events = warm(core, submit(spec, "a", LONG), num_steps=5)
    assert len(events) == 5
    assert log == ["launched", *["launched", "read"] * 3]


def test_a_step_tells_one_token_of_each_and_goes_on(twins: Llava, spec: ModelSpec) -> None:
    recorder = Recorder()
    core = build(twins, spec, recorder)
    warm(core, submit(spec, "a", LONG), submit(spec, "b", LONG, seed=1))
    for _ in range(5):
        progress, repeated = core.progress, recorder.num_repeated
        events = core.step()
        assert [event.request_id for event in events] == ["a", "b"]
        assert core.progress > progress
        assert recorder.num_repeated == repeated + 1
        assert core._ahead.is_under_way


def test_whoever_ends_by_length_is_not_computed_once_more(twins: Llava, spec: ModelSpec) -> None:
    """Five tokens: the first by the prompt, the second before anything is recorded, three by replay and no more."""
    recorder = Recorder()
    core = build(twins, spec, recorder)
    warm(core, submit(spec, "a", replace(GREEDY, max_tokens=5)), num_steps=2)
    drain(core)
    assert recorder.num_repeated == 3


def test_whoever_stops_is_computed_once_for_nothing(twins: Llava, spec: ModelSpec) -> None:
    whole = answer(run(build(twins, spec, None), submit(spec, "a", LONG))["a"])
    place = next(index for index in range(4, 40) if whole[index] not in whole[:index])
    recorder = Recorder()
    core = build(twins, spec, recorder)
    events = warm(core, submit(spec, "a", replace(LONG, stop_token_ids=(whole[place],))), num_steps=2)
    while not isinstance(events[-1], Done):
        events += core.step()
    assert answer(events) == whole[:place]
    assert core.has_work, "a step is under way"
    assert core.step() == []
    assert not core.has_work
    assert recorder.num_repeated == place  # the tokens after the second, the stop token, and the one for nothing


def test_an_abort_counts_what_is_under_way(twins: Llava, spec: ModelSpec) -> None:
    """Of who is aborted one token is under way, and what has been told since it was sent; none if nothing counts."""
    moment_s = 0.0
    core = EngineCore(
        twins, spec, num_blocks=64, max_sequences=4, max_step_tokens=96, record=Recorder(), clock=lambda: moment_s
    )
    warm(core, *[submit(spec, name, LONG, seed=index) for index, name in enumerate("abcd")])
    moment_s = 5.0
    core.abort("a", sent_s=4.0)
    assert core._ahead.is_under_way
    core.step()
    core.abort("b", sent_s=4.0)
    core.abort("c")
    done = {event.request_id: event for event in core.step() if isinstance(event, Done)}
    assert (done["b"].late_tokens, done["c"].late_tokens) == (2, 0)
    warm(core)
    core.abort("d", sent_s=6.0)
    events = core.step()
    core.check_integrity()
    (last,) = [event for event in events if isinstance(event, Done)]
    assert (last.request_id, last.late_tokens) == ("d", 1)
    assert not core.has_work
    assert core.free_cache_tokens == core.cache_tokens


def test_blocks_of_who_was_aborted_are_another_s_at_once(twins: Llava, spec: ModelSpec) -> None:
    """He begins where a step under way still writes, and is answered as if he were alone."""
    rest = submit(spec, "rest", replace(LONG, max_tokens=30), length=40, seed=3)
    expected = answer(run(build(twins, spec, None), rest)["rest"])
    core = build(twins, spec, Recorder(), num_blocks=5)
    warm(core, submit(spec, "a", LONG, length=30, seed=1))
    core.abort("a")
    assert core._ahead.is_under_way
    core.submit(rest)
    assert answer(drain(core)["rest"]) == expected


def test_whoever_comes_is_let_in_after_the_step_under_way(twins: Llava, spec: ModelSpec) -> None:
    core = build(twins, spec, Recorder())
    warm(core, submit(spec, "a", LONG))
    core.submit(submit(spec, "b", LONG, seed=1))
    assert [event.request_id for event in core.step()] == ["a"]
    assert not core._ahead.is_under_way
    assert [event.request_id for event in core.step()] == ["a", "b"]


def test_a_row_that_is_no_number_fails_alone_and_is_not_remembered(twins: Llava, spec: ModelSpec) -> None:
    bad, good = submit(spec, "bad", LONG, length=BLOCK_SIZE - 4, seed=4), submit(spec, "good", LONG, length=9, seed=5)
    wanted = {name: answer(events) for name, events in run(build(twins, spec, None), bad, good).items()}
    place = next(
        index for index in range(4, 40) if wanted["bad"][index] not in {*wanted["bad"][:index], *wanted["good"]}
    )
    core = build(twins, spec, Recorder())
    with poisoned(twins, wanted["bad"][place]):
        events = warm(core, bad, good)
        while not any(isinstance(event, Failed) for event in events):
            events += core.step()
            assert core._ahead.is_under_way
        ids, ends = told([event for event in events if event.request_id == "bad"])
        assert ends == {-1: "engine_numerical_error"}
        assert ids[0] == wanted["bad"][: place + 1]
    rest = drain(core)
    assert answer([event for event in events if event.request_id == "good"] + rest["good"]) == wanted["good"]
    again = replace(bad, request_id="again", token_ids=bad.token_ids + wanted["bad"][: place + 3])
    expected = answer(run(build(twins, spec, None), again)["again"])
    assert answer(run(core, again)["again"]) == expected


def test_what_cannot_be_said_is_not_said_ahead_either(twins: Llava, spec: ModelSpec) -> None:
    """Ids from 100 on only pad the vocabulary here, and one of them would often be the likeliest."""
    request = submit(spec, "a", LONG, seed=1)
    assert max(answer(run(build(twins, spec, None), request)["a"])) >= 100
    few = {"num_blocks": 64, "max_sequences": 2, "max_step_tokens": 96, "num_token_ids": 100}
    expected = answer(run(EngineCore(twins, spec, **few), request)["a"])
    core = EngineCore(twins, spec, record=Recorder(), **few)
    events = warm(core, request)
    assert core._ahead.is_under_way
    assert answer(events + drain(core)["a"]) == expected
    assert max(expected) < 100


@pytest.mark.parametrize(
    "sampling",
    [
        SEEDED,
        replace(GREEDY, top_logprobs=1),
        replace(GREEDY, repetition_penalty=1.1),
        replace(GREEDY, logit_bias=((5, 1.0),)),
        replace(GREEDY, min_tokens=12),
    ],
    ids=["drawn", "told", "penalised", "biased", "kept going"],
)
def test_nobody_runs_ahead_of_what_the_host_has_a_say_in(twins: Llava, spec: ModelSpec, sampling: Sampling) -> None:
    recorder = Recorder()
    core = build(twins, spec, recorder)
    for item in (submit(spec, "a", LONG), submit(spec, "b", sampling, seed=2)):
        core.submit(item)
    while any(one.request_id == "b" for one in core._scheduler.running) or core.num_waiting:
        core.step()
        core.tend()
        assert not (core._ahead.is_under_way and any(one.request_id == "b" for one in core._scheduler.running))
    assert recorder.num_repeated > 5
    core.step()
    core.tend()
    core.step()
    assert core._ahead.is_under_way, "now it is alone"
    drain(core)


def test_nobody_runs_ahead_where_answers_are_guessed(twins: Llava, spec: ModelSpec) -> None:
    core = build(twins, spec, Recorder(), max_guess=3)
    core.submit(submit(spec, "a", LONG))
    while core.has_work:
        core.step()
        core.tend()
        assert not core._ahead.is_under_way


def decoding(
    *lengths: int, max_tokens: int = 9, num_blocks: int = 8, block_size: int = 4
) -> tuple[Scheduler, list[Chunk]]:
    """Streams whose prompts were so long, and the chunks of their next step."""
    scheduler = Scheduler(BlockAllocator(num_blocks, block_size), 4, 64, is_reusing=False)
    for index, length in enumerate(lengths):
        scheduler.add(Sequence(str(index), [3] * length, length, Sampling(max_tokens)))
    for chunk in scheduler.schedule():
        chunk.sequence.compute(chunk.end)
        chunk.sequence.token_ids.append(5)
    return scheduler, scheduler.schedule()


def test_the_step_behind_is_one_token_further_and_has_its_blocks() -> None:
    """The second's next token opens a block."""
    scheduler, chunks = decoding(5, 7)
    before = [len(chunk.sequence.block_table) for chunk in chunks]
    behind = scheduler.schedule_behind(chunks)
    assert [(chunk.sequence.request_id, chunk.start, chunk.end) for chunk in behind] == [("0", 6, 7), ("1", 8, 9)]
    assert [len(chunk.sequence.block_table) for chunk in behind] == [before[0], before[1] + 1]
    scheduler.check_integrity()


def test_the_step_behind_leaves_out_whom_the_step_before_brings_to_full_length() -> None:
    scheduler, chunks = decoding(5, 6, max_tokens=2)
    chunks[0].sequence.sampling = Sampling(3)
    assert [chunk.sequence.request_id for chunk in scheduler.schedule_behind(chunks)] == ["0"]


def test_there_is_no_step_behind_where_it_is_not_certain_what_it_does() -> None:
    scheduler, chunks = decoding(5, 6)
    assert scheduler.schedule_behind(chunks[:1]) == [], "another runs"
    scheduler.add(Sequence("late", [3], 1, Sampling(2)))
    assert scheduler.schedule_behind(chunks) == [], "another waits"


def test_there_is_a_step_behind_while_nobody_can_be_let_in() -> None:
    scheduler, chunks = decoding(5, 5, 5, 5, num_blocks=16)
    scheduler.add(Sequence("late", [3], 1, Sampling(2)))
    assert len(scheduler.schedule_behind(chunks)) == 4
    chunks[0].sequence.sampling = Sampling(2)
    assert scheduler.schedule_behind(chunks) == [], "he is next"


def test_nobody_makes_room_for_a_step_behind() -> None:
    """Both need a block for it, and there is one."""
    scheduler, chunks = decoding(7, 7, num_blocks=5)
    tables = [list(chunk.sequence.block_table) for chunk in chunks]
    assert scheduler.schedule_behind(chunks) == []
    assert [list(chunk.sequence.block_table) for chunk in chunks] == tables
    scheduler.check_integrity()
