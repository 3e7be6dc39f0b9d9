"""What a key may use: streams at once, requests and tokens a minute, by a clock that the test turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavatube.errors import Overloaded, RateLimited
from lavatube.predictions.line import Line
from lavatube.predictions.owners import OPERATOR, Allowance, OwnerLimits, Owners


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def owners(limits: OwnerLimits, clock: Clock) -> Owners:
    return Owners(lambda _: limits, clock)


def test_streams_at_once() -> None:
    one = owners(OwnerLimits(max_streams=2), Clock())
    one.enter("a")
    one.enter("a")
    with pytest.raises(RateLimited) as refusal:
        one.enter("a")
    assert (refusal.value.code, refusal.value.retry_after_s) == ("rate_limited", 1)
    one.enter("b")
    one.leave("a", 0)
    one.enter("a")


def test_requests_a_minute_come_back_at_a_steady_rate() -> None:
    clock = Clock()
    one = owners(OwnerLimits(requests_per_minute=6), clock)
    for _ in range(6):
        one.enter("a")
    with pytest.raises(RateLimited) as refusal:
        one.enter("a")
    assert refusal.value.retry_after_s == 10
    clock.now_s += 10
    one.enter("a")
    with pytest.raises(RateLimited):
        one.enter("a")


def test_tokens_are_a_debt_that_is_waited_off() -> None:
    clock = Clock()
    one = owners(OwnerLimits(tokens_per_minute=600), clock)
    one.enter("a")
    one.leave("a", 1000)
    with pytest.raises(RateLimited) as refusal:
        one.enter("a")
    assert refusal.value.retry_after_s == 41
    clock.now_s += 41
    one.enter("a")


def test_the_operator_has_no_limits() -> None:
    one = owners(OwnerLimits(max_streams=1, requests_per_minute=1), Clock())
    for _ in range(5):
        one.enter(OPERATOR)


@given(st.integers(1, 1000), st.lists(st.tuples(st.floats(0, 30), st.integers(0, 50)), max_size=60))
def test_an_allowance_never_gives_more_than_its_rate(per_minute: int, steps: list[tuple[float, int]]) -> None:
    now_s, taken = 0.0, 0
    allowance = Allowance(per_minute, now_s)
    for pause_s, amount in steps:
        now_s += pause_s
        for _ in range(amount):
            if allowance.wait_s(now_s) == 0.0:
                allowance.take(1, now_s)
                taken += 1
    assert taken <= per_minute * (1 + now_s / 60) + 1e-6
    assert allowance.wait_s(now_s + 60 / per_minute) == pytest.approx(0, abs=1e-6)


@given(st.lists(st.sampled_from("abcdefgh"), max_size=200), st.integers(8, 60))
def test_a_flood_of_one_key_leaves_room_for_a_newcomer(floods: list[str], places: int) -> None:
    line = Line(max_running=places // 2, max_waiting=places - places // 2, max_bytes=1)
    for owner in ["flood"] * 200 + floods:
        try:
            line.enter(0, owner)
        except Overloaded:
            assert line._owners.num_inside(owner) or line.num_requests == places
    assert line._owners.num_inside("flood") <= 4 * (places // 5 + 1)
    if line.num_requests < places:
        line.enter(0, "newcomer")
