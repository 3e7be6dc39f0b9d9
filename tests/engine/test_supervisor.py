"""The front's decisions about its worker, on a clock of the test's own."""

from __future__ import annotations

import pytest

from lavatube.engine.supervisor import EngineState, Patience, RestartPolicy, Watchdog
from lavatube.engine.wire import Heartbeat, Loading, Ready, Tokens

PATIENCE = Patience(hang_s=10, start_s=60, check_every_s=1)


def test_the_delay_doubles_up_to_its_limit_and_then_it_is_enough() -> None:
    policy = RestartPolicy(max_failures=8, max_delay_s=30)
    assert [policy.delay_after_failure(float(now)) for now in range(8)] == [1, 2, 4, 8, 16, 30, 30, None]


def test_five_failures_in_ten_minutes_are_the_end() -> None:
    policy = RestartPolicy()
    assert [policy.delay_after_failure(now) for now in (0.0, 100.0, 200.0, 300.0, 599.0)] == [1, 2, 4, 8, None]


def test_old_failures_are_forgiven() -> None:
    policy = RestartPolicy()
    assert [policy.delay_after_failure(now * 200.0) for now in range(20)] == [1, 2, *[4] * 18]


@pytest.mark.parametrize("state", EngineState)
def test_stopped_is_for_ever_and_reachable_from_everywhere(state: EngineState) -> None:
    assert not EngineState.STOPPED.can_become(state)
    assert state.can_become(EngineState.STOPPED) == (state is not EngineState.STOPPED)


def test_a_failed_engine_does_not_come_back() -> None:
    assert [state for state in EngineState if EngineState.FAILED.can_become(state)] == [EngineState.STOPPED]


def watch(*, is_ready: bool, has_work: bool, steps_per_s: int, beats: bool, seconds: int) -> str | None:
    """The first complaint about a worker that behaves like this."""
    dog = Watchdog(PATIENCE, 0.0)
    for now in range(1, seconds + 1):
        if beats:
            dog.hear(Heartbeat(steps_per_s * now, 0, 0, 0), now)
        if complaint := dog.complaint(now, is_ready=is_ready, has_work=has_work):
            return complaint
    return None


def test_no_complaint_about_work_that_goes_on() -> None:
    assert watch(is_ready=True, has_work=True, steps_per_s=1, beats=True, seconds=1000) is None


def test_no_complaint_about_idleness() -> None:
    assert watch(is_ready=True, has_work=False, steps_per_s=0, beats=True, seconds=1000) is None


def test_work_without_progress_is_a_hang() -> None:
    complaint = watch(is_ready=True, has_work=True, steps_per_s=0, beats=True, seconds=12)
    assert complaint == "it made no progress for 11 s"


def test_silence_is_a_hang_even_when_idle() -> None:
    assert watch(is_ready=True, has_work=False, steps_per_s=0, beats=False, seconds=12) == "it was silent for 11 s"


def test_a_start_is_granted_more() -> None:
    assert watch(is_ready=False, has_work=False, steps_per_s=0, beats=False, seconds=60) is None
    assert watch(is_ready=False, has_work=False, steps_per_s=0, beats=False, seconds=62) is not None
    assert watch(is_ready=False, has_work=False, steps_per_s=0, beats=True, seconds=600) is None


@pytest.mark.parametrize("event", [Tokens("a", 0, [1]), Loading(1, 2)])
def test_any_other_event_is_progress(event: Tokens | Loading) -> None:
    dog = Watchdog(PATIENCE, 0.0)
    for now in range(1, 100):
        dog.hear(Heartbeat(0, 0, 0, 0), now)
        if now % 9 == 0:
            dog.hear(event, now)
        assert dog.complaint(now, is_ready=True, has_work=True) is None


def test_work_that_comes_after_idleness_gets_its_whole_time() -> None:
    dog = Watchdog(PATIENCE, 0.0)
    for now in range(1, 120):
        dog.hear(Heartbeat(5, 0, 0, 0), now)
        complaint = dog.complaint(now, is_ready=True, has_work=now > 100)
        assert (complaint is not None) == (now > 110), now


def test_who_slept_itself_does_not_blame_the_worker() -> None:
    dog = Watchdog(PATIENCE, 0.0)
    dog.complaint(1, is_ready=True, has_work=True)
    assert dog.complaint(500, is_ready=True, has_work=True) is None
    for now in range(501, 511):
        assert dog.complaint(now, is_ready=True, has_work=True) is None
    assert dog.complaint(511, is_ready=True, has_work=True) is not None


def test_a_step_is_granted_what_the_engine_says_that_a_layer_takes() -> None:
    for layer_s, is_hang in ((0.0, True), (30.0, False)):
        watchdog = Watchdog(Patience(hang_s=10), 0.0)
        watchdog.hear(Ready("cpu", "bfloat16", 1.0, 4096, 4096, layer_s), 0.0)
        complaints = []
        for now_s in range(1, 20):
            watchdog.hear(Heartbeat(0, 1, 0, 0), float(now_s))
            complaints.append(watchdog.complaint(float(now_s), is_ready=True, has_work=True))
        assert any(complaints) is is_hang
