"""The line in front of the engine, as arithmetic."""

from __future__ import annotations

import pytest

from lavatube.errors import Overloaded
from lavatube.predictions.line import Line, Ticket


def test_one_more_than_fits_is_refused_until_one_leaves() -> None:
    line = Line(max_running=2, max_waiting=1, max_bytes=100)
    tickets = [line.enter(10) for _ in range(3)]
    with pytest.raises(Overloaded) as refusal:
        line.enter(10)
    assert refusal.value.retry_after_s is not None
    assert refusal.value.retry_after_s >= 1
    line.leave(tickets[0], 1.0)
    line.enter(10)


def test_bytes_are_bounded_and_released_once() -> None:
    line = Line(max_running=8, max_waiting=8, max_bytes=100)
    first = line.enter(90)
    with pytest.raises(Overloaded):
        line.enter(20)
    line.release_bytes(first)
    line.release_bytes(first)
    assert line.num_bytes == 0
    second = line.enter(100)
    line.leave(second, None)
    line.leave(first, 1.0)
    assert (line.num_bytes, line.num_requests) == (0, 0)


def test_a_single_request_is_let_in_whatever_its_size() -> None:
    assert Line(max_running=1, max_waiting=0, max_bytes=1).enter(1000) == Ticket(1000)


@pytest.mark.parametrize(("mean_s", "waiting", "expected"), [(0.01, 10, 1), (8.0, 16, 32), (600.0, 64, 120)])
def test_retry_after_follows_the_measured_rate(mean_s: float, waiting: int, expected: int) -> None:
    line = Line(max_running=2, max_waiting=waiting, max_bytes=1)
    for _ in range(200):
        line.leave(line.enter(0), mean_s)
    for _ in range(2 + waiting):
        line.enter(0)
    assert line.retry_after_s == pytest.approx(expected, abs=1)
