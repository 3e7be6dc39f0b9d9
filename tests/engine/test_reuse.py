"""What was computed before is not computed again, and no answer shows it: an engine that forgets is the measure."""

from __future__ import annotations

import random

import pytest
import torch
from msgspec.structs import replace

from lavatube.engine.core import EngineCore
from lavatube.engine.wire import Done, RequestEvent, Sampling, Submit, Tokens
from lavatube.model.llava import Llava
from lavatube.spec import ModelSpec
from tests.engine.conftest import NewCore
from tests.engine.requests import GREEDY, SEEDED, answer, drain, failure, pixels, run, submit

LOGPROBS = replace(GREEDY, top_logprobs=20)
BLOCK = 16


def forgetful(new_core: NewCore) -> EngineCore:
    return new_core(is_reusing=False)


def cached(events: list[RequestEvent]) -> int:
    done = events[-1]
    assert isinstance(done, Done)
    return done.cached_tokens


def logprobs(events: list[RequestEvent]) -> torch.Tensor:
    """Of the twenty likeliest tokens in each place, in the order of their ids. Shapes: out (tokens, 20)."""
    tops = [event.logprobs[0].top for event in events if isinstance(event, Tokens)]
    return torch.tensor([[value for _, value in sorted(top)] for top in tops], dtype=torch.float64)


@pytest.fixture
def first(spec: ModelSpec) -> Submit:
    """A picture and a question."""
    return submit(spec, "first", LOGPROBS, length=20, num_images=1, seed=1)


def ask_again(first: Submit, name: str = "again", **changes: object) -> Submit:
    """The same but for the last five tokens."""
    return replace(first, request_id=name, token_ids=[*first.token_ids[:-5], ord(name[-1]), 11, 12, 13], **changes)


def test_a_follow_up_question_costs_what_is_new(new_core: NewCore, first: Submit) -> None:
    core = new_core()
    assert cached(run(core, first)["first"]) == 0
    again = ask_again(first)
    events = run(core, again)["again"]
    wanted = run(forgetful(new_core), again)["again"]
    assert cached(events) == (len(first.token_ids) - 5) // BLOCK * BLOCK
    assert answer(events) == answer(wanted)
    torch.testing.assert_close(logprobs(events), logprobs(wanted), atol=1e-5, rtol=0)


def test_the_next_turn_costs_what_is_new(new_core: NewCore, first: Submit) -> None:
    """The answer is part of the next prompt, and was computed, too, but for its last token."""
    core = new_core()
    said = answer(run(core, first)["first"])
    turn = replace(first, request_id="turn", token_ids=[*first.token_ids, *said, 21, 22, 23])
    events = run(core, turn)["turn"]
    assert cached(events) == (len(first.token_ids) + len(said) - 1) // BLOCK * BLOCK
    assert answer(events) == answer(run(forgetful(new_core), turn)["turn"])


def test_the_same_request_again_computes_its_last_tokens(new_core: NewCore, first: Submit) -> None:
    core = new_core()
    wanted = answer(run(core, first)["first"])
    events = run(core, replace(first, request_id="twin"))["twin"]
    assert answer(events) == wanted
    assert 0 < cached(events) < len(first.token_ids)


def test_another_picture_is_never_a_hit(new_core: NewCore, spec: ModelSpec, first: Submit) -> None:
    core = new_core()
    run(core, first)
    other = replace(first, request_id="other", images=[pixels(spec, seed=2)])
    events = run(core, other)["other"]
    assert cached(events) == 0
    assert answer(events) == answer(run(forgetful(new_core), other)["other"])
    assert answer(events) != answer(run(forgetful(new_core), first)["first"])


def test_another_salt_finds_neither_blocks_nor_pictures(new_core: NewCore, first: Submit) -> None:
    core = new_core(image_cache_bytes=1 << 20)
    run(core, first)
    strangers = replace(first, request_id="stranger", salt=b"another owner")
    assert cached(run(core, strangers)["stranger"]) == 0
    assert core.caches.image_hits == 0
    assert cached(run(core, replace(strangers, request_id="same owner"))["same owner"]) > 0


def test_a_picture_elsewhere_in_the_prompt_is_not_encoded_again(new_core: NewCore, first: Submit) -> None:
    """Its keys and values are others there; its features are not."""
    core = new_core(image_cache_bytes=1 << 20)
    run(core, first)
    later = replace(first, request_id="later", token_ids=[50, 51, 52, *first.token_ids])
    events = run(core, later)["later"]
    assert (cached(events), core.caches.image_hits, core.caches.image_misses) == (0, 1, 1)
    assert answer(events) == answer(run(forgetful(new_core), later)["later"])


def test_questions_that_come_together_share_one_prefill(new_core: NewCore, spec: ModelSpec, first: Submit) -> None:
    """Nobody computes what another is computing just now."""
    core = new_core(max_step_tokens=24, image_cache_bytes=1 << 20)
    asked = [first, *(ask_again(first, name, sampling=replace(SEEDED, seed=seed)) for seed, name in enumerate("abc"))]
    events = run(core, *asked)
    for request in asked:
        alone = run(forgetful(new_core), request)[request.request_id]
        assert answer(events[request.request_id]) == answer(alone)
    shared = (len(first.token_ids) - 5) // BLOCK * BLOCK
    assert [cached(events[request.request_id]) for request in asked] == [0, shared, shared, shared]
    assert core.caches.image_misses == 1


def test_choices_report_what_their_prompt_found(new_core: NewCore, first: Submit) -> None:
    core = new_core()
    run(core, first)
    several = ask_again(first, sampling=replace(SEEDED, num_choices=3))
    dones = [event for event in run(core, several)["again"] if isinstance(event, Done)]
    assert {done.cached_tokens for done in dones} == {(len(first.token_ids) - 5) // BLOCK * BLOCK}


def test_a_continued_answer_counts_what_was_found_of_its_prompt(new_core: NewCore, first: Submit) -> None:
    core = new_core()
    said = answer(run(core, first)["first"])
    rest = replace(first, request_id="rest", begun=[said[:9]])
    assert cached(run(core, rest)["rest"]) <= len(first.token_ids)


def test_what_failed_is_not_remembered(model: Llava, spec: ModelSpec, new_core: NewCore) -> None:
    """A fault that passes, in the middle of a prompt, leaves nothing behind: the same request is then computed anew."""
    core = new_core(max_step_tokens=24, image_cache_bytes=1 << 20)
    poison, place = 299, 40
    good = submit(spec, "a", length=70, seed=3)
    assert poison not in good.token_ids
    request = replace(good, token_ids=[*good.token_ids[:place], poison, *good.token_ids[place + 1 :]])
    weight = model.language.embed_tokens.weight
    with torch.inference_mode():
        kept = weight[poison].clone()
        try:
            weight[poison] = torch.nan
            assert failure(run(core, request)["a"]) == "engine_numerical_error"
        finally:
            weight[poison] = kept
    events = run(core, request)["a"]
    assert cached(events) == place // 24 * 24 // BLOCK * BLOCK, "only what was sound"
    assert answer(events) == answer(run(forgetful(new_core), request)["a"])


def test_what_was_driven_out_is_computed_again(new_core: NewCore, spec: ModelSpec, first: Submit) -> None:
    core = new_core(num_blocks=6)
    wanted = answer(run(core, first)["first"])
    run(core, submit(spec, "large", length=80, seed=9))
    events = run(core, first)["first"]
    assert cached(events) == 0
    assert answer(events) == wanted


@pytest.mark.parametrize("seed", range(4))
def test_any_company_in_a_small_cache_as_alone(new_core: NewCore, spec: ModelSpec, seed: int) -> None:
    """Conversations that branch, over few pictures, with aborts, preemption and eviction on the way."""
    rng = random.Random(seed)
    stems = [submit(spec, "", GREEDY, length=6, num_images=index % 2, seed=index) for index in range(3)]
    requests = []
    for index in range(12):
        stem = rng.choice(stems + requests)
        sampling = Sampling(rng.randint(1, 20), temperature=rng.choice([0.0, 1.0]), seed=index)
        more = [rng.randrange(3, 9) for _ in range(rng.randint(1, 20))]
        request = replace(stem, request_id=str(index), token_ids=[*stem.token_ids, *more], sampling=sampling)
        if len(request.token_ids) < 100:
            requests.append(request)
    core = new_core(num_blocks=9, max_sequences=4, max_step_tokens=20, image_cache_bytes=20_000)
    aborted = {request.request_id for request in requests if rng.random() < 0.2}
    events = []
    for request in requests:
        core.submit(request)
        for _ in range(rng.randint(0, 4)):
            events += core.step()
            core.check_integrity()
        if request.request_id in aborted:
            core.abort(request.request_id)
    rest = drain(core)
    found = 0
    for request in requests:
        name = request.request_id
        if name not in aborted:
            mine = [event for event in events if event.request_id == name] + rest[name]
            found += cached(mine)
            assert answer(mine) == answer(run(forgetful(new_core), request)[name])
    assert found > 0
