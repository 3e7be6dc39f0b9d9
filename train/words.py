"""Turns parts of a scene into English: numbers, lists, places, noun phrases. Knows no whole question."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from train.pool import IMAGE_SIZE
from train.scene import DIGITS, SHAPES, Thing
from train.tower import PATCH_SIZE

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
PLACES = {
    ("top", "left"): "at the top left",
    ("top", "middle"): "at the top",
    ("top", "right"): "at the top right",
    ("middle", "left"): "on the left",
    ("middle", "middle"): "in the middle",
    ("middle", "right"): "on the right",
    ("bottom", "left"): "at the bottom left",
    ("bottom", "middle"): "at the bottom",
    ("bottom", "right"): "at the bottom right",
}


@dataclass(frozen=True, slots=True)
class Selector:
    """Which things a question is about: those with this kind, colour and size; None means any.

    A kind may also be "letter" or "digit", for any glyph of that sort.
    """

    kind: str | None = None
    colour: str | None = None
    size: str | None = None

    def matches(self, thing: Thing) -> bool:
        return (
            self.kind in (None, thing.kind, sort_of(thing.kind))
            and self.colour in (None, thing.colour)
            and self.size in (None, thing.size)
        )

    def choose(self, things: Iterable[Thing]) -> list[Thing]:
        return [thing for thing in things if self.matches(thing)]

    def words(self, *, is_plural: bool = False, noun: str = "thing") -> str:
        """Name the things, without an article: "small red circles"."""
        name = noun if self.kind is None else self.kind
        return " ".join(filter(None, (self.size, self.colour, name + "s" if is_plural else name)))


def sort_of(kind: str) -> str:
    """Tell letters and digits from shapes, which are their own sort."""
    if kind in SHAPES:
        return kind
    return "digit" if kind in DIGITS else "letter"


def noun(kind: str) -> str:
    """Name a kind without an article: "circle", "letter A"."""
    return kind if kind in SHAPES else f"{sort_of(kind)} {kind}"


def article(phrase: str) -> str:
    """Put "a" or "an" in front."""
    return f"{'an' if re.match(r'[aeiou]', phrase) else 'a'} {phrase}"


def join(parts: Sequence[str]) -> str:
    """Write a list as English does: "a, b and c"."""
    if len(parts) == 1:
        return parts[0]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def count_words(number: int, phrase: str) -> str:
    """Write "a red circle" for one and "two red circles" for more."""
    return article(phrase) if number == 1 else f"{NUMBERS[number]} {phrase}s"


def reading_order(things: Iterable[Thing]) -> list[Thing]:
    """Sort as the model's patches come: row of patches by row, and from the left in a row."""
    rows = IMAGE_SIZE // PATCH_SIZE
    return sorted(things, key=lambda thing: (int(thing.y * rows), thing.x))


def list_things(things: Iterable[Thing]) -> str:
    """List things by colour and kind, equal ones together: "a red circle and two blue stars"."""
    names = Counter(f"{thing.colour} {noun(thing.kind)}" for thing in reading_order(things))
    return join([count_words(number, name) for name, number in names.items()])


def list_kinds(things: Iterable[Thing]) -> str:
    """List things by kind alone: "two circles and a star"."""
    names = Counter(noun(thing.kind) for thing in reading_order(things))
    return join([count_words(number, name) for name, number in names.items()])


def list_places(things: Iterable[Thing]) -> str:
    """List where things are, each place once."""
    return join(list(dict.fromkeys(place(thing) for thing in reading_order(things))))


def list_colours(things: Iterable[Thing]) -> str:
    """List the colours, each once."""
    return join(list(dict.fromkeys(thing.colour for thing in reading_order(things))))


def place(thing: Thing) -> str:
    """Say in which ninth of the picture the centre is."""
    return PLACES[thing.row, thing.column]


def full_name(thing: Thing) -> str:
    """Name one thing in full: "a small red circle at the top left"."""
    size = "" if thing.is_glyph else f"{thing.size} "
    return f"{article(f'{size}{thing.colour} {noun(thing.kind)}')} {place(thing)}"
