"""Answers against scenes written down by hand."""

import numpy as np
import pytest

from train.dialogue import roughen, sample_conversation, sample_single
from train.questions import (
    ask_shape,
    colour_answer,
    count_answer,
    exists_answer,
    in_place,
    region,
    shape_answer,
    size_answer,
    where_answer,
)
from train.scene import Thing, sample_scene
from train.strangers import FILLERS, sample_stranger
from train.words import Selector, full_name, list_things


def _thing(kind: str, colour: str, x: float, y: float, size: str = "small") -> Thing:
    return Thing(kind, colour, size, x, y, 0.2, (0, 0, 0), 0.0, 1.0)


THINGS = (
    _thing("circle", "red", 0.1, 0.1),
    _thing("circle", "blue", 0.5, 0.5, "large"),
    _thing("star", "orange", 0.9, 0.9),
)
LETTER = (_thing("A", "green", 0.5, 0.5, "large"),)


@pytest.mark.parametrize(
    ("selector", "answer"),
    [
        (Selector("circle"), "There are two circles."),
        (Selector("star"), "There is one star."),
        (Selector("square"), "There are no squares."),
        (Selector(colour="red"), "There is one red thing."),
        (Selector("circle", "blue"), "There is one blue circle."),
        (Selector(), "There are three things."),
    ],
)
def test_counts(selector: Selector, answer: str) -> None:
    assert count_answer(THINGS, selector) == answer


def test_colours_of_several_are_all_named() -> None:
    assert colour_answer(THINGS, Selector("circle")) == "The circles are red and blue."
    assert colour_answer(THINGS, Selector("star")) == "The star is orange."
    assert colour_answer(THINGS, Selector("square")) == "There is no square in the picture."


def test_shapes() -> None:
    assert shape_answer(THINGS, Selector(colour="blue")) == "The blue thing is a circle."
    assert shape_answer(LETTER, Selector(colour="green")) == "The green thing is the letter A."


def test_a_question_says_all_that_it_asks() -> None:
    random = np.random.default_rng(3)
    exchanges = [ask_shape(random, THINGS) for _ in range(2000)]
    sized = [each for each in exchanges if each.selector is not None and each.selector.size is not None]
    assert len(sized) > 100
    assert all(each.selector.size in each.question for each in sized)
    assert any(each.question == "What is red?" for each in exchanges)


def test_places() -> None:
    assert where_answer(THINGS, Selector("star")) == "The star is at the bottom right."
    assert where_answer(THINGS, Selector("circle")) == "The circles are at the top left and in the middle."


def test_sizes() -> None:
    assert size_answer(THINGS, Selector("circle")) == "The circles are small and large."


def test_existence() -> None:
    assert exists_answer(THINGS, Selector("star", "orange")) == "Yes, there is an orange star."
    assert exists_answer(THINGS, Selector("star", "red")) == "No, there is no red star in the picture."


def test_a_side_is_a_whole_row_or_column_and_a_corner_is_one_ninth() -> None:
    assert region("on the left") == (None, "left")
    assert region("at the top") == ("top", None)
    assert region("in the middle") == ("middle", "middle")
    assert in_place(THINGS[0], *region("on the left"))
    assert not in_place(THINGS[2], *region("at the bottom left"))


def test_lists_put_equal_things_together() -> None:
    twice = (*THINGS, _thing("circle", "red", 0.3, 0.1))
    assert list_things(twice) == "two red circles, a blue circle and an orange star"
    assert full_name(THINGS[1]) == "a large blue circle in the middle"
    assert list_things(LETTER) == "a green letter A"


def test_strangers_leave_no_blanks() -> None:
    random = np.random.default_rng(1)
    texts = {sample_stranger(random) for _ in range(1500)}
    assert len(texts) > 700
    assert not any(f"{{{name}}}" in text for text in texts for name in FILLERS)


def test_conversations_start_with_the_picture_and_alternate() -> None:
    random = np.random.default_rng(2)
    for _ in range(50):
        messages = sample_conversation(random, sample_scene(random).things).messages()
        assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
        assert messages[0]["content"][0] == {"type": "image"}


def test_some_questions_come_without_a_picture() -> None:
    random = np.random.default_rng(3)
    talks = [sample_single(random, THINGS) for _ in range(600)]
    blind = [talk for talk in talks if not talk.has_picture]
    assert blind
    assert all("no picture" in talk.exchanges[0].answer for talk in blind)


def test_roughening_keeps_a_question_a_question() -> None:
    random = np.random.default_rng(4)
    texts = {roughen(random, "How many circles are there?") for _ in range(200)}
    assert {"How many circles are there?", "HOW MANY CIRCLES ARE THERE?", "how many circles are there"} <= texts
