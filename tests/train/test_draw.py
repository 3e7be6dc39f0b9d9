"""Pictures against the scenes they were drawn from."""

import io

import numpy as np
from PIL import Image

from train.draw import draw, encode, font_paths
from train.pool import Shard, draw_shard, tabulate, untabulate
from train.scene import Scene, sample_scene


def _drawn(count: int) -> list[tuple[Scene, Image.Image]]:
    random = np.random.default_rng(11)
    scenes = [sample_scene(random, is_glyph=False) for _ in range(count)]
    return [(scene, draw(scene, random)) for scene in scenes]


def test_a_picture_has_the_sides_of_its_scene() -> None:
    for scene, picture in _drawn(20):
        assert picture.size == (scene.width, scene.height)


def test_the_centre_of_a_shape_has_its_colour() -> None:
    for scene, picture in _drawn(60):
        pixels = np.asarray(picture).astype(int)
        for thing in scene.things:
            at_centre = pixels[int(thing.y * scene.height), int(thing.x * scene.width)]
            assert np.abs(at_centre - np.array(thing.rgb)).max() <= 2


def test_every_font_is_installed() -> None:
    assert all(path.is_file() for path in font_paths())


def test_encoded_pictures_are_png_or_jpeg_of_the_same_size() -> None:
    random = np.random.default_rng(3)
    formats = set()
    for scene, picture in _drawn(20):
        decoded = Image.open(io.BytesIO(encode(picture, random)))
        formats.add(decoded.format)
        assert decoded.size == (scene.width, scene.height)
    assert formats == {"PNG", "JPEG"}


def test_a_shard_is_a_function_of_seed_and_number() -> None:
    first, again, other = (draw_shard(seed, 0, num_pictures=4) for seed in (5, 5, 6))
    assert np.array_equal(first.pixels, again.pixels)
    assert not np.array_equal(first.pixels, other.pixels)
    assert isinstance(first, Shard)


def test_the_table_keeps_what_words_need() -> None:
    scene, _ = _drawn(1)[0]
    kept = untabulate(tabulate(scene))
    assert [(thing.kind, thing.colour, thing.size, thing.row, thing.column) for thing in kept] == [
        (thing.kind, thing.colour, thing.size, thing.row, thing.column) for thing in scene.things
    ]
