"""What tests of the engine ask of it: prompts with and without images, and the events of a whole run."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Final

from lavatube.engine.core import EngineCore
from lavatube.engine.wire import Done, Failed, Pixels, RequestEvent, Sampling, Submit, Tokens
from lavatube.spec import ModelSpec

MAX_STEPS: Final = 2000

GREEDY: Final = Sampling(max_tokens=12)
SEEDED: Final = Sampling(max_tokens=12, temperature=1.0, top_p=0.95, top_k=100, seed=7)


def pixels(spec: ModelSpec, seed: int, num_images: int = 1) -> Pixels:
    """One random square, in a prompt of so many."""
    size = spec.vision.image_size
    data = random.Random(seed).randbytes(3 * size * size)
    return Pixels(
        digest=bytes([seed]),
        data=data,
        tiles=1,
        size=size,
        num_tokens=spec.vision.num_features,
        width=size,
        height=size,
        num_images=num_images,
    )


def submit(
    spec: ModelSpec, name: str, sampling: Sampling = GREEDY, *, length: int = 10, num_images: int = 0, seed: int = 0
) -> Submit:
    """A prompt of `length` random ids; each image stands after the first of what is left of them."""
    rng = random.Random(seed)
    token_ids = []
    for _ in range(num_images):
        token_ids += [rng.randrange(3, 300)] + [spec.image_token_id] * spec.vision.num_features
    token_ids += [rng.randrange(3, 300) for _ in range(length - num_images)]
    return Submit(name, token_ids, [pixels(spec, seed + index, num_images) for index in range(num_images)], sampling)


def run(core: EngineCore, *submits: Submit) -> dict[str, list[RequestEvent]]:
    """Submit all at once, step until nothing is left to do; events by request."""
    for item in submits:
        core.submit(item)
    return drain(core)


def drain(core: EngineCore) -> dict[str, list[RequestEvent]]:
    events: dict[str, list[RequestEvent]] = defaultdict(list)
    for _ in range(MAX_STEPS):
        if not core.has_work:
            break
        for event in core.step():
            events[event.request_id].append(event)
        core.check_integrity()
    assert not core.has_work, f"still at work after {MAX_STEPS} steps"
    assert core.free_cache_tokens == core.cache_tokens
    return events


def answer(events: list[RequestEvent]) -> list[int]:
    """The completion's ids; the events must be whole and in order."""
    ids: list[int] = []
    for event in events[:-1]:
        assert isinstance(event, Tokens)
        assert event.position == len(ids)
        ids += event.token_ids
    assert isinstance(events[-1], Done)
    assert events[-1].completion_tokens == len(ids)
    return ids


def failure(events: list[RequestEvent]) -> str:
    """The code of a request that did nothing but fail."""
    (event,) = events
    assert isinstance(event, Failed)
    return event.code
