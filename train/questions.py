"""Asks about a scene and answers from its truth, in many wordings. Knows one question at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from train.scene import COLOURS, DIGITS, LETTERS, SHAPES, SIZES, Thing
from train.strangers import ANSWER, sample_stranger
from train.wordings import (
    ALL_COLOUR_WORDINGS,
    ALL_SHAPE_WORDINGS,
    BRIEF_WORDINGS,
    COLOUR_WORDINGS,
    COUNT_WORDINGS,
    DETAIL_WORDINGS,
    EXISTS_WORDINGS,
    GLYPH_WORDINGS,
    READ_WORDINGS,
    SEE_WORDINGS,
    SHAPE_WORDINGS,
    SIDE_WORDINGS,
    SIDES,
    SIZE_WORDINGS,
    WHERE_WORDINGS,
)
from train.words import (
    NUMBERS,
    PLACES,
    Selector,
    article,
    full_name,
    join,
    list_colours,
    list_kinds,
    list_places,
    list_things,
    noun,
    place,
    reading_order,
    sort_of,
)

Things = Sequence[Thing]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question with its true answer; the selector says what it was about, for follow-ups and for checking."""

    topic: str
    question: str
    answer: str
    selector: Selector | None = None


def choose(random: np.random.Generator, options: Sequence[T]) -> T:
    """Draw one of the options."""
    return options[int(random.integers(len(options)))]


def _word(random: np.random.Generator, wordings: Sequence[str], selector: Selector) -> str:
    name = choose(random, ("thing", "thing", "object", "shape"))
    one, many = selector.words(noun=name), selector.words(is_plural=True, noun=name)
    fitting = [each for each in wordings if "{colour}" not in each or selector.size is None]  # it must say all it asks
    wording = choose(random, fitting)
    return wording.format(it=one, them=many, an_it=article(one), colour=selector.colour)


def _absent(selector: Selector) -> str:
    return f"There is no {selector.words()} in the picture."


def count_answer(things: Things, selector: Selector, name: str = "thing") -> str:
    """Say how many there are."""
    number = len(selector.choose(things))
    words = selector.words(is_plural=number != 1, noun=name)
    return f"There {'is' if number == 1 else 'are'} {NUMBERS[number]} {words}."


def colour_answer(things: Things, selector: Selector) -> str:
    """Say which colours the chosen things have."""
    chosen = selector.choose(things)
    if not chosen:
        return _absent(selector)
    if len(chosen) == 1:
        return f"The {selector.words()} is {chosen[0].colour}."
    return f"The {selector.words(is_plural=True)} are {list_colours(chosen)}."


def shape_answer(things: Things, selector: Selector) -> str:
    """Say which shapes the chosen things have."""
    chosen = selector.choose(things)
    if not chosen:
        return _absent(selector)
    if len(chosen) == 1:
        only = noun(chosen[0].kind)
        return f"The {selector.words()} is {'the ' + only if chosen[0].is_glyph else article(only)}."
    return f"The {selector.words(is_plural=True)} are {list_kinds(chosen)}."


def where_answer(things: Things, selector: Selector) -> str:
    """Say where the chosen things are."""
    chosen = selector.choose(things)
    if not chosen:
        return _absent(selector)
    if len(chosen) == 1:
        return f"The {selector.words()} is {list_places(chosen)}."
    return f"The {selector.words(is_plural=True)} are {list_places(chosen)}."


def size_answer(things: Things, selector: Selector) -> str:
    """Say how large the chosen things are."""
    chosen = selector.choose(things)
    if not chosen:
        return _absent(selector)
    sizes = join(list(dict.fromkeys(thing.size for thing in reading_order(chosen))))
    if len(chosen) == 1:
        return f"The {selector.words()} is {sizes}."
    return f"The {selector.words(is_plural=True)} are {sizes}."


def exists_answer(things: Things, selector: Selector) -> str:
    """Say whether there is one."""
    if selector.choose(things):
        return f"Yes, there is {article(selector.words())}."
    return f"No, there is no {selector.words()} in the picture."


def region(asked: str) -> tuple[str | None, str | None]:
    """Turn words for a place into a row and a column; a side such as "on the left" is a whole column, any row."""
    row, column = next(key for key, words in PLACES.items() if words == asked)
    if (row, column) == ("middle", "middle"):
        return row, column
    return (None if row == "middle" else row), (None if column == "middle" else column)


def in_place(thing: Thing, row: str | None, column: str | None) -> bool:
    """Tell whether a thing's centre is in that row and column of ninths; None means any."""
    return row in (None, thing.row) and column in (None, thing.column)


def _sample_selector(
    random: np.random.Generator, things: Things, *, kind: float, colour: float, size: float = 0.0, present: float = 0.85
) -> Selector:
    """Pick what to ask about: mostly something that is there; kind, colour and size are chances to be named."""
    target = choose(random, things)
    target_kind = sort_of(target.kind)
    is_glyph = target.is_glyph
    named_kind, named_colour, named_size = (random.random() < chance for chance in (kind, colour, size))
    selector = Selector(
        target_kind if named_kind else None,
        target.colour if named_colour or not named_kind else None,
        target.size if named_size and not is_glyph else None,
    )
    if random.random() < present:
        return selector
    other_kind = choose(random, (*SHAPES, *SHAPES, "letter", "digit")) if selector.kind else None
    if selector.kind and selector.colour and random.random() < 0.5:
        other_kind = selector.kind
    other_colour = choose(random, COLOURS) if selector.colour and (random.random() < 0.7) else selector.colour
    return Selector(other_kind, other_colour, selector.size)


def ask_count(random: np.random.Generator, things: Things) -> Exchange:
    """Ask how many there are of a shape, of a colour, of both, or in all."""
    style = random.random()
    if style < 0.2:
        selector = Selector()
    elif style < 0.65:
        selector = _sample_selector(random, things, kind=1, colour=0, present=0.75)
    elif style < 0.8:
        selector = _sample_selector(random, things, kind=0, colour=1, present=0.85)
    else:
        selector = _sample_selector(random, things, kind=1, colour=1, present=0.8)
    name = choose(random, ("thing", "thing", "object", "shape"))
    if things[0].is_glyph and name == "shape":
        name = "thing"
    wording = choose(random, COUNT_WORDINGS)
    question = wording.format(them=selector.words(is_plural=True, noun=name))
    return Exchange("count", question, count_answer(things, selector, name), selector)


def ask_colour(random: np.random.Generator, things: Things) -> Exchange:
    """Ask for the colour of a shape, or for all colours."""
    if random.random() < 0.1:
        many = len({thing.colour for thing in things}) > 1
        answer = f"The colours are {list_colours(things)}." if many else f"The only colour is {things[0].colour}."
        return Exchange("colour", choose(random, ALL_COLOUR_WORDINGS), answer, Selector())
    selector = _sample_selector(random, things, kind=1, colour=0, size=0.12, present=0.92)
    return Exchange("colour", _word(random, COLOUR_WORDINGS, selector), colour_answer(things, selector), selector)


def ask_shape(random: np.random.Generator, things: Things) -> Exchange:
    """Ask for the shape of what has a colour, or for all shapes."""
    if random.random() < 0.15:
        answer = f"The picture shows {list_kinds(things)}."
        return Exchange("shape", choose(random, ALL_SHAPE_WORDINGS), answer, Selector())
    selector = _sample_selector(random, things, kind=0, colour=1, size=0.1, present=0.9)
    return Exchange("shape", _word(random, SHAPE_WORDINGS, selector), shape_answer(things, selector), selector)


def ask_where(random: np.random.Generator, things: Things) -> Exchange:
    """Ask where something is."""
    selector = _sample_selector(random, things, kind=0.8, colour=0.45, present=0.93)
    return Exchange("where", _word(random, WHERE_WORDINGS, selector), where_answer(things, selector), selector)


def ask_size(random: np.random.Generator, things: Things) -> Exchange:
    """Ask how large something is."""
    selector = _sample_selector(random, things, kind=0.85, colour=0.4, present=0.95)
    return Exchange("size", _word(random, SIZE_WORDINGS, selector), size_answer(things, selector), selector)


def ask_exists(random: np.random.Generator, things: Things) -> Exchange:
    """Ask whether there is one; half of the time there is not."""
    if random.random() < 0.3:
        return _ask_attribute(random, things)
    selector = _sample_selector(random, things, kind=0.8, colour=0.6, size=0.08, present=0.42)
    return Exchange("yes/no", _word(random, EXISTS_WORDINGS, selector), exists_answer(things, selector), selector)


def _ask_attribute(random: np.random.Generator, things: Things) -> Exchange:
    target = choose(random, things)
    selector = Selector(sort_of(target.kind))
    is_unique = len(selector.choose(things)) == 1
    if target.is_glyph and random.random() < 0.6:
        glyph = target.kind if random.random() < 0.5 else choose(random, LETTERS if random.random() < 0.6 else DIGITS)
        question = choose(random, ("Is this the {}?", "Is it the {}?", "Is this a {}?")).format(noun(glyph))
        answer = "Yes, it is" if glyph == target.kind else "No, it is"
        return Exchange("yes/no", question, f"{answer} the {noun(target.kind)}.", selector)
    if not is_unique:
        return ask_exists(random, things)
    colour = target.colour if random.random() < 0.5 else choose(random, COLOURS)
    question = f"Is the {selector.words()} {colour}?"
    answer = "Yes" if colour == target.colour else "No"
    return Exchange("yes/no", question, f"{answer}, the {selector.words()} is {target.colour}.", selector)


def ask_side(random: np.random.Generator, things: Things) -> Exchange:
    """Ask what is in one ninth, or along one side, of the picture."""
    style = random.random()
    if style < 0.6:
        asked = choose(random, SIDES)
    elif style < 0.85:
        asked = place(choose(random, things))
    else:
        asked = choose(random, tuple(PLACES.values()))
    row, column = region(asked)
    chosen = [thing for thing in things if in_place(thing, row, column)]
    question = choose(random, SIDE_WORDINGS).format(place=asked)
    lead = asked[0].upper() + asked[1:]
    answer = f"{lead} I see {list_things(chosen)}." if chosen else f"There is nothing {asked}."
    return Exchange("side", question, answer)


def ask_size_list(random: np.random.Generator, things: Things) -> Exchange:
    """Ask which things are small, or large."""
    size = choose(random, SIZES)
    chosen = Selector(size=size).choose(things)
    question = choose(random, ("Which things are {}?", "What is {}?", "Which shapes are {}?")).format(size)
    if not chosen:
        return Exchange("size list", question, f"There is nothing {size} in the picture.")
    verb = "thing is" if len(chosen) == 1 else "things are"
    return Exchange("size list", question, f"The {size} {verb} {list_things(chosen)}.")


def ask_glyph(random: np.random.Generator, things: Things) -> Exchange:
    """Ask which digit or letter this is; sometimes of a picture of the other sort."""
    sort = sort_of(things[0].kind)
    asked = sort if random.random() < 0.9 else choose(random, ("letter", "digit"))
    asked = asked if asked in ("letter", "digit") else choose(random, ("letter", "digit"))
    selector = Selector(asked)
    name = choose(random, ("digit", "digit", "number")) if asked == "digit" else asked
    wording = choose(random, GLYPH_WORDINGS).format(sort=name)
    if not things[0].is_glyph:
        return Exchange("glyph", wording, f"There is no {asked} in the picture.", selector)
    if asked != sort:
        return Exchange("glyph", wording, f"It is not a {asked}; it is the {noun(things[0].kind)}.", selector)
    if random.random() < 0.15:
        wording = choose(random, READ_WORDINGS)
    return Exchange("glyph", wording, f"It is the {noun(things[0].kind)}.", selector)


def ask_description(random: np.random.Generator, things: Things) -> Exchange:
    """Ask for everything: briefly, or with sizes and places."""
    selector = Selector(sort_of(things[0].kind)) if len(things) == 1 else None
    style = random.random()
    if style < 0.5:
        answer = f"The picture shows {list_things(things)}."
        return Exchange("describe", choose(random, BRIEF_WORDINGS), answer, selector)
    if style < 0.7:
        return Exchange("describe", choose(random, SEE_WORDINGS), f"I see {list_things(things)}.", selector)
    parts = join([full_name(thing) for thing in reading_order(things)])
    return Exchange("describe in detail", choose(random, DETAIL_WORDINGS), f"The picture shows {parts}.", selector)


def ask_stranger(random: np.random.Generator, things: Things) -> Exchange:
    """Ask what cannot be answered from the picture."""
    return Exchange("other", sample_stranger(random), f"{ANSWER} I see {list_things(things)}.")


ASKERS: dict[Callable[[np.random.Generator, Things], Exchange], tuple[float, float]] = {
    # How often of shapes, how often of a glyph. Lists of several things are learned last, so they are asked most.
    ask_count: (0.11, 0.06),
    ask_colour: (0.12, 0.10),
    ask_shape: (0.18, 0.06),
    ask_where: (0.25, 0.03),
    ask_side: (0.08, 0.02),
    ask_exists: (0.09, 0.15),
    ask_size: (0.03, 0.0),
    ask_size_list: (0.03, 0.0),
    ask_glyph: (0.02, 0.38),
    ask_description: (0.07, 0.14),
    ask_stranger: (0.02, 0.06),
}


def ask(random: np.random.Generator, things: Things) -> Exchange:
    """Ask one question of a random topic."""
    weights = np.array([chances[int(things[0].is_glyph)] for chances in ASKERS.values()])
    return choose_weighted(random, tuple(ASKERS), weights)(random, things)


def choose_weighted(random: np.random.Generator, options: Sequence[T], weights: np.ndarray) -> T:
    """Draw one of the options, by weight."""
    return options[int(np.searchsorted(np.cumsum(weights / weights.sum()), random.random()).clip(0, len(options) - 1))]
