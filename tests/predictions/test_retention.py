"""What is remembered: everything that runs, and the latest that finished."""

from __future__ import annotations

from lavatube.predictions.owners import OPERATOR
from lavatube.predictions.prediction import Prediction
from lavatube.predictions.retention import Retention, RetentionLimits


def finished(retention: Retention, prediction_id: str, text: str = "") -> Prediction:
    prediction = Prediction(prediction_id)
    retention.add(prediction)
    prediction.start(0, 0)
    prediction.write(text)
    prediction.cancel()
    retention.finish(prediction)
    return prediction


def test_the_oldest_goes_first_by_count() -> None:
    retention = Retention(RetentionLimits(max_count=2))
    for name in "abc":
        finished(retention, name)
    assert [name for name in "abc" if retention.find(name, OPERATOR)] == ["b", "c"]


def test_bytes_are_bounded() -> None:
    retention = Retention(RetentionLimits(max_bytes=100_000))
    for index in range(100):
        finished(retention, str(index), "x" * 1000)
    kept = [index for index in range(100) if retention.find(str(index), OPERATOR)]
    assert kept == list(range(100 - len(kept), 100))
    assert 15 <= len(kept) <= 25


def test_age_is_bounded_and_running_ones_do_not_age() -> None:
    retention = Retention(RetentionLimits(max_age_s=0.0))
    running = Prediction("running")
    retention.add(running)
    finished(retention, "old")
    assert retention.find("old", OPERATOR) is None
    assert retention.find("running", OPERATOR) is running
