"""A step ahead, whatever happens: made-up requests come, go, end and fail, and say what they say without."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from lavatube.engine.capacity import BLOCK_SIZE
from lavatube.engine.core import EngineCore
from lavatube.engine.wire import Done, Failed, RequestEvent, Sampling, Submit
from lavatube.model.examples import Examples
from lavatube.model.llava import Llava
from lavatube.model.load import load_model
from lavatube.model.replay import cuda_recorder
from lavatube.spec import ModelSpec
from tests.engine.ahead import LONG, build, poisoned, told
from tests.engine.requests import GREEDY, answer, run, submit
from tests.model.replaying import Recorder


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
