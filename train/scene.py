"""Samples scenes: what is in a picture, as plain numbers, and so what is true of it. Knows nothing of pixels or words.

A scene holds one to six shapes, or one digit or letter. Places are fractions of the picture's sides, so they do not
change when the picture is stretched; diameters are fractions of the geometric mean of the sides.
"""

import math
from dataclasses import dataclass

import numpy as np

SHAPES = ("circle", "square", "triangle", "star")
DIGITS = tuple("0123456789")
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
KINDS = SHAPES + DIGITS + LETTERS
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "black", "white")
SIZES = ("small", "large")
COLUMNS = ("left", "middle", "right")
ROWS = ("top", "middle", "bottom")

MAX_THINGS = 6
COUNT_WEIGHTS = (0.17, 0.20, 0.20, 0.17, 0.14, 0.12)
SMALL_DIAMETER = (0.17, 0.23)
LARGE_DIAMETER = (0.33, 0.42)
MAX_LARGE = (1, 2, 3, 2, 2, 1)
BORDER_BAND = 0.02
CLEARANCE = 0.6
GLYPH_SHARE = 0.3
LETTER_SHARE = 0.65

# Each colour is a mix of two anchors, so that the named range is a line in RGB plus a little jitter.
ANCHORS = {
    "red": ((255, 0, 0), (200, 25, 35)),
    "green": ((0, 128, 0), (50, 205, 70)),
    "blue": ((0, 0, 255), (40, 95, 225)),
    "yellow": ((255, 255, 0), (250, 210, 30)),
    "orange": ((255, 165, 0), (245, 120, 20)),
    "purple": ((128, 0, 128), (150, 65, 200)),
    "black": ((0, 0, 0), (32, 32, 36)),
    "white": ((255, 255, 255), (236, 236, 238)),
}


@dataclass(frozen=True, slots=True)
class Thing:
    """One shape or glyph.

    Units: x, y: fractions of width and height, of the centre; diameter: fraction of sqrt(width * height), for a glyph
    the height of its ink; rotation: degrees; stretch: width over height, beyond the thing's own.
    """

    kind: str
    colour: str
    size: str
    x: float
    y: float
    diameter: float
    rgb: tuple[int, int, int]
    rotation: float
    stretch: float

    @property
    def column(self) -> str:
        return COLUMNS[min(2, int(self.x * 3))]

    @property
    def row(self) -> str:
        return ROWS[min(2, int(self.y * 3))]

    @property
    def is_glyph(self) -> bool:
        return self.kind not in SHAPES


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture to be drawn. Units: width, height: pixels."""

    width: int
    height: int
    things: tuple[Thing, ...]

    @property
    def is_glyph(self) -> bool:
        return self.things[0].is_glyph


def sample_scene(random: np.random.Generator, *, is_glyph: bool | None = None) -> Scene:
    """Draw a random scene; the same generator state gives the same scene."""
    width, height = _sample_sides(random)
    if is_glyph is None:
        is_glyph = random.random() < GLYPH_SHARE
    if is_glyph:
        return Scene(width, height, (_sample_glyph(random, width, height),))
    while True:
        things = _sample_shapes(random, width, height)
        if things:
            return Scene(width, height, things)


def _sample_sides(random: np.random.Generator) -> tuple[int, int]:
    limit = math.log(1.6 if random.random() < 0.7 else 2.5)
    ratio = math.exp(random.uniform(-limit, limit))
    mean = math.exp(random.uniform(math.log(110), math.log(420)))
    return round(mean * math.sqrt(ratio)), round(mean / math.sqrt(ratio))


def _sample_shapes(random: np.random.Generator, width: int, height: int) -> tuple[Thing, ...]:
    """Place shapes one after another; an empty tuple when one finds no free place."""
    count = 1 + int(random.choice(MAX_THINGS, p=COUNT_WEIGHTS))
    names = _sample_names(random, count)
    num_large = int(random.integers(0, MAX_LARGE[count - 1] + 1))
    things: list[Thing] = []
    for index, (shape, colour) in enumerate(names):
        size = "large" if index < num_large else "small"
        diameter = random.uniform(*(LARGE_DIAMETER if size == "large" else SMALL_DIAMETER))
        place = _find_place(random, things, diameter, width, height)
        if place is None:
            return ()
        limit = 45 if shape == "circle" else 13
        things.append(
            Thing(
                shape,
                colour,
                size,
                *place,
                diameter,
                sample_rgb(random, colour),
                random.uniform(-limit, limit),
                random.uniform(0.88, 1.13),
            )
        )
    return tuple(sorted(things, key=lambda thing: (thing.y, thing.x)))


def _sample_names(random: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """Choose shapes and colours; half of the scenes draw from a short list, so that there is something to count."""
    shapes, colours = list(SHAPES), list(COLOURS)
    kind = random.random()
    if kind < 0.3:
        shapes = list(random.choice(SHAPES, size=int(random.integers(1, 3)), replace=False))
    elif kind < 0.55:
        colours = list(random.choice(COLOURS, size=int(random.integers(1, 3)), replace=False))
    if 0.2 < kind < 0.4:
        colours = list(random.choice(COLOURS, size=3, replace=False))
    return [(str(random.choice(shapes)), str(random.choice(colours))) for _ in range(count)]


def _find_place(
    random: np.random.Generator, things: list[Thing], diameter: float, width: int, height: int
) -> tuple[float, float] | None:
    mean = math.sqrt(width * height)
    margin_x, margin_y = 0.58 * diameter * mean / width, 0.58 * diameter * mean / height
    if margin_x >= 0.5 or margin_y >= 0.5:
        return None
    for _ in range(40):
        x, y = random.uniform(margin_x, 1 - margin_x), random.uniform(margin_y, 1 - margin_y)
        if _is_near_third(x) or _is_near_third(y):
            continue
        if all(
            math.hypot((x - other.x) * width, (y - other.y) * height) > CLEARANCE * (diameter + other.diameter) * mean
            for other in things
        ):
            return x, y
    return None


def _is_near_third(fraction: float) -> bool:
    return min(abs(fraction - 1 / 3), abs(fraction - 2 / 3)) < BORDER_BAND


def _sample_glyph(random: np.random.Generator, width: int, height: int) -> Thing:
    kind = str(random.choice(LETTERS if random.random() < LETTER_SHARE else DIGITS))
    mean = math.sqrt(width * height)
    diameter = min(random.uniform(0.4, 0.8) * height, 0.75 * width) / mean
    colour = str(random.choice(COLOURS))
    return Thing(
        kind,
        colour,
        "large",
        0.5 + random.uniform(-0.08, 0.08),
        0.5 + random.uniform(-0.06, 0.06),
        diameter,
        sample_rgb(random, colour),
        random.uniform(-10, 10),
        random.uniform(0.9, 1.1),
    )


def sample_rgb(random: np.random.Generator, colour: str) -> tuple[int, int, int]:
    """Draw one shade of a named colour. Units: 0..255."""
    first, second = np.array(ANCHORS[colour], dtype=np.float64)
    share = random.random()
    shade = first * share + second * (1 - share) + random.uniform(-6, 6, size=3)
    red, green, blue = (int(value) for value in np.clip(shade, 0, 255))
    return red, green, blue
