"""A sequence's lawful moves, what it holds, and the durations it reports."""

from __future__ import annotations

import itertools

import pytest
import torch

from lavatube.engine.sequence import ImageSpan, Sequence, SequenceState
from lavatube.engine.wire import Pixels, Sampling
from tests.engine.test_batch import PLAN

WAITING, RUNNING, FINISHED, EXPECTED = SequenceState
LEGAL = {(WAITING, RUNNING), (WAITING, FINISHED), (RUNNING, WAITING), (RUNNING, FINISHED)}
LEGAL |= {(EXPECTED, WAITING), (EXPECTED, RUNNING), (EXPECTED, FINISHED)}


def sequence(**overrides: object) -> Sequence:
    fields = {"request_id": "a", "token_ids": list(range(8)), "num_prompt_tokens": 8, "sampling": Sampling(4)}
    return Sequence(**(fields | overrides))  # type: ignore[arg-type]


@pytest.mark.parametrize(("before", "after"), list(itertools.product(SequenceState, SequenceState)))
def test_only_legal_moves(before: SequenceState, after: SequenceState) -> None:
    one = sequence(state=before)
    if (before, after) in LEGAL:
        one.move(after)
        assert one.state is after
    else:
        with pytest.raises(AssertionError):
            one.move(after)


def test_features_go_when_their_placeholders_are_computed() -> None:
    image = Pixels(digest=b"", data=b"", tiles=1, size=1, num_tokens=3, width=1, height=1)
    one = sequence(images=(ImageSpan(1, 4, image, PLAN), ImageSpan(4, 7, image, PLAN)))
    one.features = {0: torch.ones(3, 1), 1: torch.ones(3, 1)}
    one.compute(3)
    assert set(one.features) == {0, 1}
    one.compute(4)
    assert set(one.features) == {1}
    one.forget()
    assert not one.features
    assert one.num_uncomputed_tokens == 8


def test_sampled_tokens_are_completion() -> None:
    one = sequence()
    one.compute(8)
    one.token_ids.append(9)
    assert (one.num_completion_tokens, one.num_uncomputed_tokens) == (1, 1)


def test_durations_of_whatever_happened() -> None:
    one = sequence(arrived_s=10.0)
    assert one.durations(12.0) == (2.0, 0.0, 0.0)
    one.scheduled_s = 11.0
    assert one.durations(12.0) == (1.0, 1.0, 0.0)
    one.first_token_s = 11.5
    assert one.durations(12.0) == (1.0, 0.5, 0.5)
