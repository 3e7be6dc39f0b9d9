"""The judge of replies: true answers pass, and one wrong word fails."""

import numpy as np
import pytest

from train.claims import acceptable_places, is_right
from train.dialogue import sample_single
from train.questions import Exchange
from train.scene import Thing, sample_scene
from train.words import Selector

SWAPS = (("red", "blue"), ("circle", "star"), ("two", "three"), ("left", "right"), ("Yes", "No"), ("small", "large"))


def test_true_answers_pass_and_swapped_words_fail() -> None:
    random = np.random.default_rng(8)
    num_swapped = 0
    for _ in range(400):
        things = sample_scene(random).things
        exchange = sample_single(random, things).exchanges[0]
        assert is_right(exchange, things, exchange.answer)
        for old, new in SWAPS:
            wrong = exchange.answer.replace(old, new)
            if wrong != exchange.answer:
                num_swapped += 1
                assert not is_right(exchange, things, wrong)
    assert num_swapped > 100


def _thing(kind: str, colour: str, x: float, y: float) -> Thing:
    return Thing(kind, colour, "small", x, y, 0.2, (0, 0, 0), 0.0, 1.0)


def test_lists_may_come_in_any_order() -> None:
    things = (_thing("circle", "red", 0.1, 0.1), _thing("star", "blue", 0.8, 0.8))
    exchange = Exchange("describe", "Describe", "The picture shows a red circle and a blue star.")
    assert is_right(exchange, things, "The picture shows a blue star and a red circle.")
    assert not is_right(exchange, things, "The picture shows a blue star.")
    assert not is_right(exchange, things, "The picture shows a blue star, a red circle and a red circle.")


@pytest.mark.parametrize(
    ("x", "places"),
    [(0.1, {"on the left"}), (0.31, {"on the left", "in the middle"}), (0.5, {"in the middle"})],
)
def test_places_near_a_border_are_both_right(x: float, places: set[str]) -> None:
    thing = _thing("circle", "red", x, 0.5)
    assert acceptable_places(thing) == places
    exchange = Exchange("where", "Where is the circle?", "The circle is on the left.", Selector("circle"))
    for place in places:
        assert is_right(exchange, (thing,), f"The circle is {place}.")
    assert not is_right(exchange, (thing,), "The circle is on the right.")
