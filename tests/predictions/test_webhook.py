"""When a webhook is told something, and when it is told again: arithmetic."""

from __future__ import annotations

import pytest

from lavatube.predictions.webhook import RETRY_AFTER_S, DeliveryState, HookEvent, Outcome, Pace, Webhook, after


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_news_keep_their_distance_in_time() -> None:
    clock = Clock()
    pace = Pace(0.5, clock)
    assert pace.wait_s == 0
    pace.looked()
    assert pace.wait_s == 0.5
    clock.now += 0.4
    assert pace.wait_s == pytest.approx(0.1)
    clock.now += 0.2
    assert pace.wait_s == 0


@pytest.mark.parametrize("num_tokens", [1, 10, 400, 4000])
def test_a_long_answer_costs_three_times_its_length(num_tokens: int) -> None:
    clock = Clock()
    pace = Pace(0.5, clock)
    sizes = []
    for token in range(1, num_tokens + 1):
        clock.now += 1.0  # slow: there is time for a post at each of them
        if pace.is_worth(8 * token):
            pace.looked(8 * token)
            sizes.append(8 * token)
    assert sizes[0] == 8
    assert sum(sizes) <= 3 * 8 * num_tokens + 8


def test_attempts_follow_the_schedule_for_days_and_then_end() -> None:
    waits = []
    attempts = 1
    while (found := after(Outcome(500), attempts, chance=lambda: 0.0))[0] is DeliveryState.PENDING:
        waits.append(found[1])
        attempts += 1
    assert waits == list(RETRY_AFTER_S)
    assert waits[:4] == [5, 300, 1800, 7200]
    assert 3 * 24 * 3600 < sum(waits) < 4 * 24 * 3600
    assert found == (DeliveryState.EXHAUSTED, 0.0)


@pytest.mark.parametrize("status", [None, 301, 302, 307, 308, 400, 404, 429, 500, 503])
def test_whatever_is_no_success_is_tried_again(status: int | None) -> None:
    assert after(Outcome(status), 1)[0] is DeliveryState.PENDING


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_a_success_is_the_end(status: int) -> None:
    assert after(Outcome(status), 1) == (DeliveryState.DELIVERED, 0.0)


def test_a_receiver_that_is_gone_is_left_alone() -> None:
    assert after(Outcome(410), 1) == (DeliveryState.GONE, 0.0)


def test_retry_after_is_obeyed_where_it_is_later_but_not_for_ever() -> None:
    assert after(Outcome(503, 60.0), 1, lambda: 0.0)[1] == 60.0
    assert after(Outcome(503, 1.0), 1, lambda: 0.0)[1] == 5.0
    assert after(Outcome(503, 1e9), 1, lambda: 0.0)[1] == 24 * 3600


def test_attempts_are_spread() -> None:
    assert after(Outcome(500), 2, lambda: 1.0)[1] == pytest.approx(330.0)


def test_a_webhook_wants_everything_or_what_was_asked_for() -> None:
    assert all(Webhook("https://a.test/").wants(event) for event in HookEvent)
    assert not Webhook("https://a.test/", frozenset({"completed"})).wants(HookEvent.START)
