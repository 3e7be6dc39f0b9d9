"""What a scene promises: things apart, inside, away from the borders of thirds, and the same for the same seed."""

import itertools
import math

import numpy as np
import pytest

from train.scene import BORDER_BAND, COLOURS, KINDS, Scene, sample_scene


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    random = np.random.default_rng(4)
    return [sample_scene(random) for _ in range(1000)]


def test_same_seed_gives_the_same_scene() -> None:
    assert sample_scene(np.random.default_rng(9)) == sample_scene(np.random.default_rng(9))


def test_every_kind_and_colour_turns_up(scenes: list[Scene]) -> None:
    things = [thing for scene in scenes for thing in scene.things]
    assert {thing.kind for thing in things} == set(KINDS)
    assert {thing.colour for thing in things} == set(COLOURS)


def test_ratios_stay_within_the_world(scenes: list[Scene]) -> None:
    ratios = [scene.width / scene.height for scene in scenes]
    assert min(ratios) > 1 / 2.6
    assert max(ratios) < 2.6


def test_shapes_do_not_touch(scenes: list[Scene]) -> None:
    for scene in scenes:
        mean = math.sqrt(scene.width * scene.height)
        for one, other in itertools.combinations(scene.things, 2):
            apart = math.hypot((one.x - other.x) * scene.width, (one.y - other.y) * scene.height)
            assert apart > 0.59 * (one.diameter + other.diameter) * mean


def test_a_glyph_is_alone(scenes: list[Scene]) -> None:
    glyphs = [scene for scene in scenes if scene.is_glyph]
    assert glyphs
    assert all(len(scene.things) == 1 for scene in glyphs)


def test_centres_keep_clear_of_the_borders_of_thirds(scenes: list[Scene]) -> None:
    for scene in scenes:
        for thing in scene.things:
            if not thing.is_glyph:
                for fraction in (thing.x, thing.y):
                    assert min(abs(fraction - 1 / 3), abs(fraction - 2 / 3)) >= BORDER_BAND
