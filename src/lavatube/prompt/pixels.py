"""An RGB image in, the uint8 squares that the vision tower reads out.

Bit-exact with the PIL image processors of transformers (CLIP, SigLIP, Llava with do_pad, LlavaNext, LlavaOnevision) and
with the original's process_images, up to normalisation, which the model does on its device. Knows no files, no limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from PIL import Image

from lavatube.geometry import Cut
from lavatube.spec import PixelSpec

_BICUBIC: Final = Image.Resampling.BICUBIC
_BAND_ROWS: Final = 256


@dataclass(frozen=True, slots=True)
class Tiles:
    """`data` is (count, 3, size, size) uint8, row-major."""

    data: bytes
    count: int
    size: int


def tile(image: Image.Image, spec: PixelSpec, cut: Cut) -> Tiles:
    """Cut one RGB image into the squares that the tower reads, as `cut` says.

    Shapes: out (cut.tiles, 3, S, S) uint8, S = spec.size; the base tile first, then the grid's, row by row.
    """
    if cut.mode == "anyres":
        squares = [image.resize((spec.size, spec.size), _BICUBIC), *_grid(image, spec.size, cut)]
    elif cut.mode == "pad":
        squares = [_crop(_resize_padded(image, spec), spec.size, cut)]
    else:
        squares = [_crop(image.resize(cut.resized, _BICUBIC), spec.size, cut)]
    planes = (plane.tobytes() for square in squares for plane in square.split())
    return Tiles(b"".join(planes), count=len(squares), size=spec.size)


def _grid(image: Image.Image, size: int, cut: Cut) -> Iterator[Image.Image]:
    canvas = Image.new("RGB", (size * cut.grid_cols, size * cut.grid_rows))
    canvas.paste(image.resize(cut.resized, _BICUBIC), cut.offset)
    for top in range(0, canvas.height, size):
        for left in range(0, canvas.width, size):
            yield canvas.crop((left, top, left + size, top + size))


def _resize_padded(image: Image.Image, spec: PixelSpec) -> Image.Image:
    """Pad to a square of the mean colour and resize that, without ever holding the square.

    16384×82 would be a square of 268 million pixels. Pillow resizes across first, then down, with bytes in between; so
    bands of padded rows are narrowed one by one, and the narrow picture is shortened at the end, bit for bit the same.
    """
    side, edge = max(image.size), spec.resize
    mean = tuple(int(value * 255) for value in spec.mean)
    left, top = (side - image.width) // 2, (side - image.height) // 2
    narrow = Image.new("RGB", (edge, side), mean)
    for row in range(0, image.height, _BAND_ROWS):
        rows = min(_BAND_ROWS, image.height - row)
        band = Image.new("RGB", (side, rows), mean)
        band.paste(image.crop((0, row, image.width, row + rows)), (left, 0))
        narrow.paste(band.resize((edge, rows), _BICUBIC), (0, top + row))
    return narrow.resize((edge, edge), _BICUBIC)


def _crop(image: Image.Image, size: int, cut: Cut) -> Image.Image:
    """The middle square; where the image is smaller than it, the rest is black."""
    left, top = -cut.offset[0], -cut.offset[1]
    return image.crop((left, top, left + size, top + size))
