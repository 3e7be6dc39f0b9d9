"""The engine: a request's answer is its own, whoever else is there and however it was cut; and it always ends."""

from __future__ import annotations

import itertools

import pytest
import torch
from msgspec.structs import replace

from lavatube.engine.capacity import BLOCK_SIZE
from lavatube.engine.core import EngineCore
from lavatube.engine.wire import Done, Sampling, Submit, Tokens
from lavatube.model.llava import Llava
from lavatube.spec import ModelSpec
from tests.engine.conftest import NewCore
from tests.engine.requests import GREEDY, SEEDED, answer, drain, failure, run, submit


@pytest.fixture(scope="module")
def mixed(spec: ModelSpec) -> list[Submit]:
    """Greedy and seeded, short and long, with none, one and two images."""
    return [
        submit(spec, "a", GREEDY, length=5, num_images=1, seed=1),
        submit(spec, "b", SEEDED, length=40, seed=2),
        submit(spec, "c", replace(SEEDED, seed=8), length=9, num_images=2, seed=3),
        submit(spec, "d", replace(GREEDY, max_tokens=30), length=3, seed=4),
        submit(spec, "e", replace(SEEDED, max_tokens=25, top_k=0), length=12, num_images=1, seed=5),
    ]


@pytest.fixture(scope="module")
def alone(model: Llava, spec: ModelSpec, mixed: list[Submit]) -> dict[str, list[int]]:
    """The answer of each when it has an engine for itself and is computed in one piece."""
    answers = {}
    for request in mixed:
        core = EngineCore(model, spec, num_blocks=64, max_sequences=1, max_step_tokens=512)
        answers[request.request_id] = answer(run(core, request)[request.request_id])
    return answers


def test_the_fixture_can_tell_answers_apart(alone: dict[str, list[int]]) -> None:
    assert all(len(set(ids)) > 2 for ids in alone.values())
    assert len({tuple(ids[:5]) for ids in alone.values()}) == len(alone)


def test_an_answer_depends_on_the_picture(new_core: NewCore, spec: ModelSpec) -> None:
    one = submit(spec, "a", SEEDED, length=5, num_images=1, seed=1)
    other = replace(submit(spec, "b", SEEDED, length=5, num_images=1, seed=2), token_ids=one.token_ids)
    events = run(new_core(), one, other)
    assert answer(events["a"]) != answer(events["b"])


def test_together_as_alone(new_core: NewCore, mixed: list[Submit], alone: dict[str, list[int]]) -> None:
    events = run(new_core(), *mixed)
    assert {name: answer(events[name]) for name in alone} == alone


@pytest.mark.parametrize("gap", [1, 3])
def test_joining_and_leaving_as_alone(
    new_core: NewCore, mixed: list[Submit], alone: dict[str, list[int]], gap: int
) -> None:
    core = new_core(max_step_tokens=24)
    events = []
    for request in mixed:
        core.submit(request)
        for _ in range(gap):
            events += core.step()
    rest = drain(core)
    for name, wanted in alone.items():
        assert answer([event for event in events if event.request_id == name] + rest[name]) == wanted


@pytest.mark.parametrize("max_step_tokens", [1, 7, 16, 33])
def test_cut_into_chunks_as_whole(
    new_core: NewCore, mixed: list[Submit], alone: dict[str, list[int]], max_step_tokens: int
) -> None:
    """Borders fall into placeholders, between them, and one token a step."""
    for request in mixed:
        core = new_core(max_sequences=1, max_step_tokens=max_step_tokens)
        assert answer(run(core, request)[request.request_id]) == alone[request.request_id]


def test_preempted_as_left_alone(new_core: NewCore, spec: ModelSpec) -> None:
    """Four that need 6 blocks each in the end share 13; pictures are encoded again with their prompts."""
    requests = [
        submit(spec, name, replace(SEEDED, max_tokens=60, seed=seed), length=10, num_images=1, seed=seed)
        for seed, name in enumerate("abcd")
    ]
    alone = [answer(run(new_core(), request)[request.request_id]) for request in requests]
    core = new_core(num_blocks=13, max_step_tokens=24)
    for request in requests:
        core.submit(request)
    events, num_waiting, num_preemptions = [], 4, 0
    while core.has_work:
        events += core.step()
        core.check_integrity()
        num_preemptions += max(0, core.num_waiting - num_waiting)
        num_waiting = core.num_waiting
    together = [answer([event for event in events if event.request_id == name]) for name in "abcd"]
    assert together == alone
    assert num_preemptions >= 2, "the cache was large enough after all"


def test_a_resubmitted_answer_goes_on_as_it_would_have(
    new_core: NewCore, mixed: list[Submit], alone: dict[str, list[int]]
) -> None:
    """What the front does when a worker dies: prompt and tokens so far are the new prompt."""
    for request, so_far in itertools.product(mixed, (1, 6)):
        begun = alone[request.request_id][:so_far]
        rest = replace(request.sampling, max_tokens=request.sampling.max_tokens - so_far)
        again = replace(request, token_ids=request.token_ids + begun, sampling=rest)
        assert begun + answer(run(new_core(), again)[request.request_id]) == alone[request.request_id]


def test_an_abort_frees_blocks_at_once_and_ends_the_stream(new_core: NewCore, spec: ModelSpec) -> None:
    core = new_core()
    core.submit(submit(spec, "a", replace(GREEDY, max_tokens=100)))
    core.submit(submit(spec, "b", GREEDY, length=70))
    core.step()
    assert core.free_cache_tokens < core.cache_tokens
    core.abort("a")
    core.abort("b")
    assert core.free_cache_tokens == core.cache_tokens
    events = core.step()
    assert [(event.request_id, event.reason) for event in events if isinstance(event, Done)] == [
        ("a", "abort"),
        ("b", "abort"),
    ]
    assert not core.has_work


def test_abort_in_the_queue_mid_prompt_and_after_the_end(new_core: NewCore, spec: ModelSpec) -> None:
    core = new_core(max_sequences=1, max_step_tokens=8)
    core.submit(submit(spec, "prompt", GREEDY, length=40))
    core.submit(submit(spec, "queued", GREEDY))
    core.step()
    assert (core.num_running, core.num_waiting) == (1, 1)
    core.abort("queued")
    core.abort("prompt")
    core.abort("never heard of")
    ends = drain(core)
    core.abort("prompt")
    assert {name: [event.reason for event in events] for name, events in ends.items()} == {  # type: ignore[union-attr]
        "queued": ["abort"],
        "prompt": ["abort"],
    }
    assert not core.has_work


def test_a_stop_token_ends_and_is_not_part_of_the_answer(new_core: NewCore, spec: ModelSpec) -> None:
    whole = answer(run(new_core(), submit(spec, "a"))["a"])
    stop = whole[4]
    events = run(new_core(), submit(spec, "a", replace(GREEDY, stop_token_ids=(stop,))))["a"]
    assert answer(events) == whole[: whole.index(stop)]
    assert isinstance(events[-1], Done)
    assert events[-1].reason == "stop"


def test_the_length_is_kept_and_counted(new_core: NewCore, spec: ModelSpec) -> None:
    done = run(new_core(), submit(spec, "a", replace(GREEDY, max_tokens=3), length=10, num_images=1))["a"][-1]
    assert isinstance(done, Done)
    assert (done.reason, done.completion_tokens, done.cached_tokens) == ("length", 3, 0)
    assert done.prompt_tokens == 10 + spec.vision.num_features


def test_durations_add_up(model: Llava, spec: ModelSpec) -> None:
    """On a clock that ticks a second a look; the second request waits for the first to end."""
    ticks = itertools.count()
    core = EngineCore(
        model, spec, num_blocks=64, max_sequences=1, max_step_tokens=512, clock=lambda: float(next(ticks))
    )
    events = run(core, submit(spec, "a"), submit(spec, "b"))
    first, second = events["a"][-1], events["b"][-1]
    assert isinstance(first, Done)
    assert isinstance(second, Done)
    assert second.queued_s > first.queued_s + first.decode_s
    assert min(first.prefill_s, first.decode_s, second.prefill_s, second.decode_s) > 0


def test_bad_data_fails_alone(new_core: NewCore, spec: ModelSpec) -> None:
    good = submit(spec, "good", num_images=1)
    bad = replace(submit(spec, "bad", num_images=1), token_ids=[1, 10**6])
    events = run(new_core(), bad, good)
    assert failure(events["bad"]) == "invalid_input"
    assert answer(events["good"]) == answer(run(new_core(), good)["good"])


def test_what_can_never_fit_fails_up_front(new_core: NewCore, spec: ModelSpec) -> None:
    core = new_core(num_blocks=4)
    assert core.max_context_tokens == 4 * BLOCK_SIZE
    events = run(core, submit(spec, "long", length=64), submit(spec, "short", length=50))
    assert failure(events["long"]) == "prompt_too_long"
    assert len(answer(events["short"])) == GREEDY.max_tokens


def test_the_context_of_the_model_is_a_limit_too(new_core: NewCore, spec: ModelSpec) -> None:
    assert new_core(num_blocks=64).max_context_tokens == spec.language.max_positions


def test_a_row_that_is_no_number_fails_alone(model: Llava, spec: ModelSpec) -> None:
    """An id whose embedding is NaN poisons its own sequence; blocks that held NaN are then used by others."""
    good = submit(spec, "good", replace(GREEDY, max_tokens=30), num_images=1)
    late = submit(spec, "late", SEEDED, length=60, seed=5)
    build = {"num_blocks": 12, "max_sequences": 4, "max_step_tokens": 64}
    wanted = {
        request.request_id: answer(run(EngineCore(model, spec, **build), request)[request.request_id])
        for request in (good, late)
    }
    poison = 7
    bad = replace(submit(spec, "bad"), token_ids=[8, 9, poison, 10])
    weight = model.language.embed_tokens.weight
    assert poison not in good.token_ids + late.token_ids + wanted["good"] + wanted["late"]
    with torch.inference_mode():
        kept = weight[poison].clone()
        try:
            weight[poison] = torch.nan
            core = EngineCore(model, spec, **build)
            events = run(core, bad, good)
            assert failure(events["bad"]) == "engine_numerical_error"
            assert answer(events["good"]) == wanted["good"]
            assert answer(run(core, late)["late"]) == wanted["late"]
        finally:
            weight[poison] = kept


def test_padded_ids_and_placeholders_are_never_sampled(new_core: NewCore, spec: ModelSpec) -> None:
    hot = Sampling(max_tokens=100, temperature=50.0)
    ids = answer(run(new_core(num_token_ids=100), submit(spec, "a", hot))["a"])
    assert max(ids) < 100
    ids = answer(run(new_core(), submit(spec, "a", hot))["a"])
    assert max(ids) > 100
    assert spec.image_token_id not in ids


def test_one_step_gives_one_token_to_each_stream(new_core: NewCore, spec: ModelSpec) -> None:
    core = new_core()
    for name in "abc":
        core.submit(submit(spec, name))
    for position in range(3):
        events = core.step()
        assert all(isinstance(event, Tokens) and len(event.token_ids) == 1 for event in events)
        assert [(event.request_id, event.position) for event in events] == [(name, position) for name in "abc"]


def test_progress_is_seen_inside_a_step(new_core: NewCore, spec: ModelSpec) -> None:
    core = new_core()
    core.submit(submit(spec, "a", num_images=1))
    core.step()
    assert core.progress == 1 + spec.vision.num_layers_run + spec.language.num_layers


def test_images_are_let_go_once_their_prompt_is_computed(new_core: NewCore, spec: ModelSpec) -> None:
    core = new_core(max_step_tokens=8)
    core.submit(submit(spec, "a", num_images=2, length=4))
    held = []
    while core.num_waiting or core.num_running:
        core.step()
        held.append(sum(len(one.features) for one in core._scheduler.running))
    assert max(held) == 1
    assert held[-1] == 0


class Counting:
    """A clock on which each layer and each step takes a second."""

    def __init__(self) -> None:
        self.core: EngineCore | None = None

    def __call__(self) -> float:
        return float(self.core.progress) if self.core else 0.0


def test_running_streams_are_not_held_up_by_a_picture(model: Llava, spec: ModelSpec, mixed: list[Submit]) -> None:
    """Neither by its encoding nor by its prompt: a step takes at most three times what decoding alone takes."""
    clock = Counting()
    core = EngineCore(model, spec, num_blocks=64, max_sequences=4, max_step_tokens=512, clock=clock)
    clock.core = core
    stream = submit(spec, "stream", replace(GREEDY, max_tokens=90))
    wanted = {
        request.request_id: answer(
            run(EngineCore(model, spec, num_blocks=64, max_sequences=1, max_step_tokens=512), request)[
                request.request_id
            ]
        )
        for request in (stream, *mixed)
    }
    core.submit(stream)
    events = core.step() + core.step() + core.step()
    for request in mixed:
        core.submit(request)
    gaps = []
    while core.has_work:
        before, is_running = core.progress, any(one.request_id == "stream" for one in core._scheduler.running)
        new = core.step()
        if is_running:
            assert any(event.request_id == "stream" for event in new), "the stream stalled"
            gaps.append(core.progress - before)
        events += new
    decoding = 1 + spec.language.num_layers
    assert decoding < max(gaps) <= 3 * decoding
    for name, ids in wanted.items():
        assert answer([event for event in events if event.request_id == name]) == ids


def test_a_picture_under_way_is_let_go_with_its_request(model: Llava, spec: ModelSpec) -> None:
    clock = Counting()
    core = EngineCore(model, spec, num_blocks=64, max_sequences=4, max_step_tokens=512, clock=clock)
    clock.core = core
    stream, shown = submit(spec, "stream", replace(GREEDY, max_tokens=60)), submit(spec, "shown", num_images=2)
    wanted = answer(run(EngineCore(model, spec, num_blocks=64, max_sequences=1, max_step_tokens=512), shown)["shown"])
    core.submit(stream)
    core.step()
    core.submit(shown)
    for _ in range(3):
        core.step()
    core.abort("shown")
    core.step()
    core.submit(replace(shown, request_id="again"))
    events = drain(core)
    assert answer(events["again"]) == wanted
