"""What tests of the step ahead share: engines that replay, tokens that spoil what follows, and how a request went."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from msgspec.structs import replace

from lavatube.engine.core import EngineCore
from lavatube.engine.wire import Failed, RequestEvent, Submit, Tokens
from lavatube.model.llava import Llava
from lavatube.model.replay import Record
from lavatube.spec import ModelSpec
from tests.engine.requests import GREEDY

LONG = replace(GREEDY, max_tokens=40)


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
