"""Fair shares, held against their law whatever order things come in: nobody is passed over for ever."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavatube.predictions.turns import Claim, Turns

OWNERS = "abcde"
WEIGHTS = st.dictionaries(st.sampled_from(OWNERS), st.integers(1, 8), min_size=2)


def backlog(weights: dict[str, int], count: int) -> Turns[tuple[str, int]]:
    turns: Turns[tuple[str, int]] = Turns()
    for number in range(count):
        for owner, weight in weights.items():
            turns.add((owner, number), Claim(owner, weight=weight))
    return turns


@given(WEIGHTS, st.integers(1, 200))
def test_who_always_waits_gets_a_share_by_weight(weights: dict[str, int], num_turns: int) -> None:
    turns = backlog(weights, 200)
    served = Counter(turns.take()[0] for _ in range(num_turns))
    for one in weights:
        for other in weights:
            gap = abs(served[one] / weights[one] - served[other] / weights[other])
            assert gap <= 1 / weights[one] + 1 / weights[other]


@given(st.lists(st.tuples(st.sampled_from(OWNERS), st.integers(0, 30)), min_size=1, max_size=60))
@settings(max_examples=200)
def test_nobody_waits_longer_than_two_rounds_whatever_the_others_do(arrivals: list[tuple[str, int]]) -> None:
    """Owners come with floods of any size; the first item of one is taken within two turns of each other owner."""
    turns: Turns[tuple[str, int, int]] = Turns()
    waited: Counter[str] = Counter()
    for moment, (owner, flood) in enumerate(arrivals):
        for number in range(flood):
            turns.add((owner, moment, number), Claim(owner))
        if not len(turns):
            continue
        waiting = {place[1] for place in turns._queues}
        taken = turns.take()[0]
        waited[taken] = 0
        for other in waiting - {taken}:
            waited[other] += 1
            assert waited[other] <= 2 * (len(OWNERS) - 1)


@given(st.lists(st.tuples(st.sampled_from(OWNERS), st.integers(-9, 9)), min_size=1, max_size=80), st.randoms())
def test_each_item_has_one_turn_or_none(claims: list[tuple[str, int]], random: object) -> None:
    turns: Turns[int] = Turns()
    for item, (owner, priority) in enumerate(claims):
        turns.add(item, Claim(owner, priority))
    removed = {item for item in range(len(claims)) if random.random() < 0.3}  # type: ignore[attr-defined]
    for item in removed:
        turns.remove(item)
    taken = [turns.take() for _ in range(len(turns))]
    assert sorted(taken) == sorted(set(range(len(claims))) - removed)
    assert len(turns) == 0
    by_owner: dict[tuple[str, int], list[int]] = {}
    for item in taken:
        claim = Claim(*claims[item])
        by_owner.setdefault((claim.owner, claim.level), []).append(item)
    assert all(items == sorted(items) for items in by_owner.values()), "an owner's own come in order of arrival"


@pytest.mark.parametrize("difference", [1, 2])
def test_a_higher_priority_comes_more_often_and_a_lower_one_comes_too(difference: int) -> None:
    turns: Turns[tuple[int, int]] = Turns()
    for number in range(1000):
        turns.add((0, number), Claim("low", 0))
        turns.add((1, number), Claim("high", difference))
    served = Counter(turns.take()[0] for _ in range(8**difference * 5 + 5))
    assert served[0] in (4, 5, 6)


def test_who_was_away_has_saved_nothing_up() -> None:
    turns: Turns[tuple[str, int]] = Turns()
    for number in range(100):
        turns.add(("busy", number), Claim("busy"))
    for _ in range(50):
        turns.take()
    for number in range(100):
        turns.add(("late", number), Claim("late"))
    served = Counter(turns.take()[0] for _ in range(20))
    assert served["late"] in (10, 11)


def test_coming_one_at_a_time_gives_no_more_than_a_share() -> None:
    turns: Turns[tuple[str, int]] = Turns()
    for number in range(100):
        turns.add(("flood", number), Claim("flood", weight=3))
    served: Counter[str] = Counter()
    for number in range(80):
        if not any(owner == "drip" for _, owner in turns._queues):
            turns.add(("drip", number), Claim("drip", weight=1))
        served[turns.take()[0]] += 1
    assert served["drip"] in range(18, 23)


def test_a_costly_item_is_charged_for_what_it_takes() -> None:
    turns: Turns[tuple[str, int]] = Turns()
    for number in range(100):
        turns.add(("many", number), Claim("many", cost=4))
        turns.add(("one", number), Claim("one", cost=1))
    served = Counter(turns.take()[0] for _ in range(50))
    assert served["one"] == pytest.approx(4 * served["many"], abs=4)
