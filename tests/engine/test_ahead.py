"""A step ahead: every answer is what it is without, whoever comes, goes, ends or fails while a step is under way."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from lavatube.engine.blocks import BlockAllocator
from lavatube.engine.capacity import BLOCK_SIZE
from lavatube.engine.chunk import Chunk
from lavatube.engine.core import EngineCore
from lavatube.engine.launched import Launched, Results
from lavatube.engine.scheduler import Scheduler
from lavatube.engine.sequence import Sequence
from lavatube.engine.wire import Done, Failed, RequestEvent, Sampling, Submit, Tokens
from lavatube.model.examples import Examples
from lavatube.model.llava import Llava
from lavatube.model.load import load_model
from lavatube.model.replay import Decoded, Record, cuda_recorder
from lavatube.spec import ModelSpec
from tests.engine.requests import GREEDY, SEEDED, answer, drain, run, submit
from tests.model.replaying import Recorder, take_twins

LONG = replace(GREEDY, max_tokens=40)


@pytest.fixture(scope="module")
def twins(checkpoint: Path, spec: ModelSpec) -> Llava:
    torch.set_num_threads(1)
    return take_twins(load_model(spec, checkpoint, torch.device("cpu"), torch.float32, lambda done, total: None))


def build(
    model: Llava, spec: ModelSpec, record: Record | None, *, num_blocks: int = 64, max_guess: int = 0
) -> EngineCore:
    return EngineCore(
        model, spec, num_blocks=num_blocks, max_sequences=6, max_step_tokens=96, max_guess=max_guess, record=record
    )


def warm(core: EngineCore, *submits: Submit, num_steps: int = 3) -> list[RequestEvent]:
    """Begin requests, and go on until their steps are recorded."""
    for item in submits:
        core.submit(item)
    events = []
    for _ in range(num_steps):
        events += core.step()
        core.tend()
    return events


@contextmanager
def poisoned(model: Llava, token_id: int) -> Iterator[None]:
    """What follows this token is no number."""
    weight = model.language.embed_tokens.weight
    with torch.inference_mode():
        kept = weight[token_id].clone()
        weight[token_id] = torch.nan
    try:
        yield
    finally:
        with torch.inference_mode():
            weight[token_id] = kept


# How a request went: of each choice the ids, and how it ended.
Told = tuple[dict[int, list[int]], dict[int, str]]


def told(events: list[RequestEvent]) -> Told:
    """Nothing comes twice, out of order, or after the end."""
    ids: dict[int, list[int]] = defaultdict(list)
    ends: dict[int, str] = {}
    for event in events:
        assert -1 not in ends, "there is no more after a failure"
        if isinstance(event, Failed):
            ends[-1] = event.code
            continue
        assert event.choice not in ends
        if isinstance(event, Tokens):
            assert event.position == len(ids[event.choice])
            ids[event.choice] += event.token_ids
        else:
            assert event.completion_tokens == len(ids[event.choice])
            ends[event.choice] = event.reason
    return dict(ids), ends


def often_said(model: Llava, spec: ModelSpec) -> list[int]:
    """Ids of a long answer."""
    return answer(run(build(model, spec, None), submit(spec, "a", replace(LONG, max_tokens=60), seed=1))["a"])


def made_up(rng: random.Random, spec: ModelSpec, ids: list[int]) -> list[Submit]:
    """Mostly greedy; `ids` are often said, so some of them end an answer."""
    requests = []
    for number in range(10):
        sampling = Sampling(
            max_tokens=rng.choice([1, 2, 5, 16, 17, 33, 60]),
            stop_token_ids=tuple(rng.sample(ids, rng.choice([0, 0, 1, 3]))),
            num_choices=rng.choice([1, 1, 1, 2]),
            min_tokens=0,
        )
        if rng.random() < 0.15:
            sampling = replace(sampling, temperature=1.0, seed=number)
        elif rng.random() < 0.15:
            sampling = replace(sampling, min_tokens=sampling.max_tokens // 2)
        shown = int(rng.random() < 0.2)
        requests.append(
            submit(spec, str(number), sampling, length=rng.randrange(2, 40), num_images=shown, seed=rng.randrange(6))
        )
    return requests


def run_at_random(
    core: EngineCore, requests: list[Submit], rng: random.Random, aborted: set[str]
) -> tuple[dict[str, list[RequestEvent]], int]:
    """Requests come and are aborted between any two steps. Also how many steps ended with another under way."""
    events: dict[str, list[RequestEvent]] = {request.request_id: [] for request in requests}
    waiting, open_ = list(requests), set[str]()
    num_ahead = 0
    for _ in range(5000):
        while waiting and rng.random() < (0.1 if open_ else 1.0):
            core.submit(waiting[0])
            open_.add(waiting.pop(0).request_id)
        for name in sorted(open_ & aborted):
            if rng.random() < 0.05:
                core.abort(name)
        for event in core.step():
            events[event.request_id].append(event)
            if isinstance(event, Failed) or (isinstance(event, Done) and event.num_left == 0):
                open_.discard(event.request_id)
        core.check_integrity()
        core.tend()
        num_ahead += core._ahead.is_under_way
        if not waiting and not core.has_work:
            break
    assert not core.has_work
    assert not open_
    assert core.free_cache_tokens == core.cache_tokens
    return events, num_ahead


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_answers_are_those_of_ordinary_steps(twins: Llava, spec: ModelSpec, seed: int) -> None:
    """Arrivals, ends by length, stop token, abort and NaN, forks, and too few blocks."""
    rng = random.Random(seed)
    often = often_said(twins, spec)
    requests = made_up(rng, spec, often)
    aborted = {request.request_id for request in requests if rng.random() < 0.3}
    with poisoned(twins, rng.choice(often)):
        ordinary = {name: told(events) for name, events in run(build(twins, spec, None), *requests).items()}
        core = build(twins, spec, Recorder(), num_blocks=rng.choice([10, 14, 64]))
        events, num_ahead = run_at_random(core, requests, rng, aborted)
    assert num_ahead > 10
    for name, (ids, ends) in ordinary.items():
        our_ids, our_ends = told(events[name])
        if -1 not in ends and name not in aborted:
            assert (our_ids, our_ends) == (ids, ends)
            continue
        for choice, ours in our_ids.items():  # when the others of a request that fails end is a matter of turns
            shortest = min(len(ours), len(ids.get(choice, [])))
            assert ours[:shortest] == ids.get(choice, [])[:shortest]
        if name in aborted:
            assert all(reason in ("abort", ends.get(choice, ends.get(-1))) for choice, reason in our_ends.items())
        else:
            assert -1 in our_ends


def test_these_requests_end_in_every_way_after_some_tokens(twins: Llava, spec: ModelSpec) -> None:
    ways: set[str] = set()
    often = often_said(twins, spec)
    for seed in range(3):
        rng = random.Random(seed)
        requests = made_up(rng, spec, often)
        with poisoned(twins, rng.choice(often)):
            went = [told(events) for events in run(build(twins, spec, None), *requests).values()]
        ways |= {reason for ids, ends in went if len(ids.get(0, ())) > 3 for reason in ends.values()}
    assert ways == {"stop", "length", "engine_numerical_error"}


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("seed", range(4))
def test_on_a_gpu_answers_are_those_of_ordinary_steps(checkpoint: Path, spec: ModelSpec, seed: int) -> None:
    device = torch.device("cuda", 0)
    model = load_model(spec, checkpoint, device, torch.float32, lambda done, total: None)
    model.fused.prove(Examples(spec.language, BLOCK_SIZE, torch.float32, device))
    rng = random.Random(seed)
    requests = [
        submit(
            spec,
            str(number),
            replace(GREEDY, max_tokens=rng.randrange(1, 60)),
            length=rng.randrange(2, 40),
            seed=number,
        )
        for number in range(10)
    ]
    ordinary = {name: told(events) for name, events in run(build(model, spec, None), *requests).items()}
    core = build(model, spec, cuda_recorder(), num_blocks=14)
    events, num_ahead = run_at_random(core, requests, rng, set())
    assert num_ahead > 10
    assert {name: told(of_one) for name, of_one in events.items()} == ordinary
