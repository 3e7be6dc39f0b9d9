"""One prediction: legal moves, one end, times and tokens."""

from __future__ import annotations

import asyncio
import re

import pytest

from lavatube.errors import EngineCrashed
from lavatube.predictions.events import LEGAL_MOVES, Completed, Status, Usage
from lavatube.predictions.prediction import Prediction, new_id


def running() -> Prediction:
    prediction = Prediction("p")
    prediction.start(prompt_tokens=10, image_tokens=4)
    return prediction


def test_ids_are_unguessable_and_fit_the_pattern_of_client_ids() -> None:
    ids = {new_id() for _ in range(100)}
    assert len(ids) == 100
    for prediction_id in ids:
        assert re.fullmatch(r"[a-z0-9]{26}", prediction_id)


def succeed(prediction: Prediction, usage: Usage | None = None) -> None:
    prediction.end_choice(0, "length")
    prediction.succeed(usage or Usage())


def test_ends_are_final() -> None:
    assert {status for status in Status if status.is_terminal} == {
        Status.SUCCEEDED,
        Status.FAILED,
        Status.CANCELED,
    }
    for end in (Prediction.cancel, lambda p: p.fail(EngineCrashed("x")), succeed):
        prediction = running()
        end(prediction)
        assert LEGAL_MOVES[prediction.status] == frozenset()
        with pytest.raises(AssertionError):
            prediction.cancel()
        assert sum(isinstance(event, Completed) for event in prediction.log._events) == 1


def test_success_needs_a_start() -> None:
    with pytest.raises(AssertionError):
        succeed(Prediction("p"))


def test_a_failure_keeps_what_was_written() -> None:
    prediction = running()
    prediction.write("half ")
    prediction.write("an answer")
    prediction.fail(EngineCrashed("It died."))
    assert prediction.text == "half an answer"
    assert prediction.log.outputs == ["half ", "an answer"]
    assert prediction.error is not None
    assert prediction.error.code == "engine_crashed"


def test_metrics_say_what_is_known() -> None:
    prediction = running()
    assert prediction.metrics == {"input_token_count": 10, "image_token_count": 4}
    prediction.write("a")
    succeed(prediction, Usage(10, 4, 0, 3))
    metrics = prediction.metrics
    assert metrics["output_token_count"] == 3
    assert 0 <= metrics["predict_time"] <= metrics["total_time"]
    assert metrics["time_to_first_token"] <= metrics["total_time"]
    assert metrics["tokens_per_second"] > 0


async def test_waiting_ends_with_the_prediction_or_with_patience() -> None:
    prediction = running()
    assert await prediction.wait(0.01) is False
    asyncio.get_running_loop().call_later(0.01, prediction.cancel)
    assert await prediction.wait(5) is True
