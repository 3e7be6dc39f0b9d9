"""Several answers to one prompt: each is what its seed gives alone, and the prompt is computed once."""

from __future__ import annotations

from collections import defaultdict

import pytest
from msgspec.structs import replace

from lavatube.engine.core import EngineCore
from lavatube.engine.wire import Done, Failed, RequestEvent, Sampling, Submit, Tokens
from lavatube.spec import ModelSpec
from tests.engine.conftest import NewCore
from tests.engine.requests import GREEDY, SEEDED, answer, drain, failure, run, submit

N = 4
WANTED = replace(SEEDED, num_choices=N, max_tokens=20)


def by_choice(events: list[RequestEvent]) -> dict[int, list[RequestEvent]]:
    """The events of each; together they must end once, with the last."""
    found = defaultdict(list)
    for event in events:
        assert not isinstance(event, Failed)
        found[event.choice].append(event)
    left = [event.num_left for event in events if isinstance(event, Done)]
    assert left == list(range(len(left)))[::-1]
    return found


def answers(events: list[RequestEvent]) -> list[list[int]]:
    return [answer(one) for _, one in sorted(by_choice(events).items())]


def each_alone(new_core: NewCore, request: Submit) -> list[list[int]]:
    sampling = request.sampling
    return [
        answer(
            run(new_core(), replace(request, sampling=replace(sampling, num_choices=1, seed=sampling.seed + choice)))[
                "a"
            ]
        )
        for choice in range(sampling.num_choices)
    ]


@pytest.mark.parametrize("length", [15, 16, 17, 40])
def test_each_is_what_its_seed_gives_alone(new_core: NewCore, spec: ModelSpec, length: int) -> None:
    """A prompt that ends before, at and after a block's border."""
    request = submit(spec, "a", WANTED, length=length)
    wanted = each_alone(new_core, request)
    assert len({tuple(ids) for ids in wanted}) == N
    assert answers(run(new_core(), request)["a"]) == wanted


def test_with_a_picture_in_chunks_and_with_company(new_core: NewCore, spec: ModelSpec) -> None:
    request = submit(spec, "a", WANTED, length=9, num_images=1)
    company = submit(spec, "b", SEEDED, length=20, seed=3)
    events = run(new_core(max_step_tokens=11), request, company)
    assert answers(events["a"]) == each_alone(new_core, request)
    assert answer(events["b"]) == answer(run(new_core(), company)["b"])


def test_the_prompt_is_computed_once_and_its_blocks_are_shared(new_core: NewCore, spec: ModelSpec) -> None:
    core = new_core()
    core.submit(submit(spec, "a", WANTED, length=70))
    core.step()
    assert core.num_running == N
    assert core.cache_tokens - core.free_cache_tokens == (4 + N) * 16  # 64 tokens together, the last 6 each its own
    one_prompt = core.progress
    core.step()
    assert core.progress - one_prompt == 1 + spec.language.num_layers
    drain(core)


@pytest.mark.parametrize(("max_sequences", "num_blocks"), [(1, 64), (3, 64), (8, 5), (8, 9)])
def test_without_room_for_all_they_take_turns(
    new_core: NewCore, spec: ModelSpec, max_sequences: int, num_blocks: int
) -> None:
    request = submit(spec, "a", WANTED, length=30)
    others = [submit(spec, name, SEEDED, seed=seed) for seed, name in enumerate("bc")]
    core = new_core(max_sequences=max_sequences, num_blocks=num_blocks)
    events = run(core, others[0], request, others[1])
    assert answers(events["a"]) == each_alone(new_core, request)
    for other in others:
        assert answer(events[other.request_id]) == answer(run(new_core(), other)[other.request_id])


def test_choices_end_one_by_one(new_core: NewCore, spec: ModelSpec) -> None:
    """Each at its own stop token; those of the others go on."""
    request = submit(spec, "a", WANTED)
    whole = each_alone(new_core, request)
    stop = whole[2][3]
    cut = [ids[: ids.index(stop)] if stop in ids else ids for ids in whole]
    events = run(new_core(), replace(request, sampling=replace(WANTED, stop_token_ids=(stop,))))["a"]
    assert answers(events) == cut
    reasons = {event.choice: event.reason for event in events if isinstance(event, Done)}
    assert reasons == {choice: "stop" if stop in ids else "length" for choice, ids in enumerate(whole)}


def test_one_choice_is_aborted_and_the_others_go_on(new_core: NewCore, spec: ModelSpec) -> None:
    request = submit(spec, "a", WANTED)
    wanted = each_alone(new_core, request)
    core = new_core()
    core.submit(request)
    events = core.step() + core.step()
    core.abort("a", 1)
    assert core.num_running == N - 1
    events += drain(core)["a"]
    assert answers(events) == [wanted[0], wanted[1][:2], wanted[2], wanted[3]]
    assert [event.reason for event in events if isinstance(event, Done)].count("abort") == 1


@pytest.mark.parametrize("num_steps", [0, 1, 3])
def test_an_abort_ends_all_of_them(new_core: NewCore, spec: ModelSpec, num_steps: int) -> None:
    """In the queue, in mid-prompt and while they are written."""
    core = new_core(max_step_tokens=20)
    core.submit(submit(spec, "a", WANTED, length=30))
    events = [event for _ in range(num_steps) for event in core.step()]
    core.abort("a")
    assert core.free_cache_tokens == core.cache_tokens
    events += drain(core)["a"]
    assert [event.reason for event in events if isinstance(event, Done)] == ["abort"] * N
    assert not core.has_work


def test_a_choice_that_has_not_begun_cannot_be_ended_alone(new_core: NewCore, spec: ModelSpec) -> None:
    core = new_core()
    request = submit(spec, "a", WANTED)
    core.submit(request)
    core.abort("a", 0)
    core.abort("a", 2)
    assert answers(drain(core)["a"]) == each_alone(new_core, request)


def test_greedy_choices_are_all_the_same(new_core: NewCore, spec: ModelSpec) -> None:
    found = answers(run(new_core(), submit(spec, "a", replace(GREEDY, num_choices=8)))["a"])
    assert len(found) == 8
    assert all(ids == found[0] for ids in found)


def test_what_is_wrong_with_one_fails_the_request_once(new_core: NewCore, spec: ModelSpec) -> None:
    request = submit(spec, "a", replace(WANTED, logit_bias=((10**6, 1.0),)))
    assert failure(run(new_core(), request)["a"]) == "invalid_input"


PENALISED = Sampling(
    max_tokens=24,
    temperature=0.8,
    seed=11,
    min_p=0.01,
    repetition_penalty=1.3,
    presence_penalty=0.4,
    frequency_penalty=0.6,
    min_tokens=9,
    stop_token_ids=(2, 3),
    logit_bias=((2, 5.0), (7, 1.0)),
)


def test_penalties_in_company_and_after_preemption_as_alone(new_core: NewCore, spec: ModelSpec) -> None:
    requests = [submit(spec, name, replace(PENALISED, seed=seed), length=14) for seed, name in enumerate("abcd")]
    alone = {request.request_id: answer(run(new_core(), request)[request.request_id]) for request in requests}
    assert all(len(ids) >= PENALISED.min_tokens for ids in alone.values())
    events = run(new_core(num_blocks=7, max_step_tokens=24), *requests)
    assert {name: answer(events[name]) for name in alone} == alone


def test_an_answer_that_was_begun_elsewhere_goes_on_with_its_penalties(new_core: NewCore, spec: ModelSpec) -> None:
    """Told where the answer begins, another engine counts the same tokens, up to the same length."""
    request = submit(spec, "a", PENALISED)
    whole = answer(run(new_core(), request)["a"])
    for so_far in (1, 5, len(whole) - 1):
        events = run(new_core(), replace(request, begun=[whole[:so_far]]))["a"]
        assert whole[:so_far] + [token_id for event in events[:-1] for token_id in event.token_ids] == whole  # type: ignore[union-attr]
        assert events[0].position == so_far  # type: ignore[union-attr]
        assert isinstance(events[-1], Done)
        assert events[-1].completion_tokens == len(whole)


def test_choices_that_were_begun_elsewhere_go_on_each_for_itself(new_core: NewCore, spec: ModelSpec) -> None:
    """As long as each was; what is over stays so, and an answer of which only the end was not heard ends at once."""
    request = submit(spec, "a", replace(WANTED, top_logprobs=2), length=9, num_images=1)
    first = by_choice(run(new_core(), request)["a"])
    whole = [answer(events) for _, events in sorted(first.items())]
    again = replace(request, begun=[whole[0][:7], None, [], whole[3]])
    second = by_choice(run(new_core(), again)["a"])
    assert sorted(second) == [0, 2, 3]
    assert [position for position, *_ in told(second[0])] == list(range(7, WANTED.max_tokens))
    for (_, ids, logprob), (_, wanted_ids, wanted) in zip(told(second[0]), told(first[0])[7:], strict=True):
        assert ids == wanted_ids
        assert logprob == pytest.approx(wanted, abs=1e-4)
    assert answer(second[2]) == whole[2]
    (end,) = second[3]
    assert isinstance(end, Done)
    assert (end.reason, end.completion_tokens) == ("length", WANTED.max_tokens)


def told(events: list[RequestEvent]) -> list[tuple[int, list[int], float]]:
    return [
        (event.position, event.token_ids, event.logprobs[0].chosen) for event in events if isinstance(event, Tokens)
    ]


def test_logprobs_come_with_their_tokens(new_core: NewCore, spec: ModelSpec) -> None:
    events = run(new_core(), submit(spec, "a", replace(GREEDY, top_logprobs=2, num_choices=2)))["a"]
    for event in events:
        if not isinstance(event, Done):
            (logprobs,) = event.logprobs  # type: ignore[union-attr]
            assert logprobs.top[0] == (event.token_ids[0], logprobs.chosen)  # type: ignore[union-attr]
            assert len(logprobs.top) == 2


def test_a_core_is_left_empty(new_core: NewCore, spec: ModelSpec) -> None:
    core: EngineCore = new_core()
    run(core, submit(spec, "a", WANTED), submit(spec, "b", replace(WANTED, num_choices=2)))
    assert core.free_cache_tokens == core.cache_tokens
    core.check_integrity()
