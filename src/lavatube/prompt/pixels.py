"""An RGB image in, the uint8 squares that the vision tower reads out.

Bit-exact with the PIL image processors of transformers (CLIP for crop and stretch, Llava with do_pad for pad), up to
normalisation, which the model does on its device. Knows no files and no limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from PIL import Image

from lavatube.spec import PixelSpec

_BICUBIC: Final = Image.Resampling.BICUBIC
_BAND_ROWS: Final = 256


@dataclass(frozen=True, slots=True)
class Tiles:
    """`data` is (count, 3, size, size) uint8, row-major."""

    data: bytes
    count: int
    size: int


def tile(image: Image.Image, spec: PixelSpec) -> Tiles:
    """Cut one RGB image into the squares that the tower reads; this family has one.

    Shapes: out (1, 3, S, S) uint8, S = spec.size.
    """
    if spec.mode == "stretch":
        square = image.resize((spec.size, spec.size), _BICUBIC)
    elif spec.mode == "pad":
        square = _crop_centre(_resize_padded(image, spec), spec.size)
    else:
        square = _crop_centre(_resize_shortest(image, spec.resize), spec.size)
    planes = (plane.tobytes() for plane in square.split())
    return Tiles(b"".join(planes), count=1, size=spec.size)


def _resize_shortest(image: Image.Image, edge: int) -> Image.Image:
    short, long = sorted(image.size)
    long = int(edge * long / short)
    return image.resize((edge, long) if image.width <= image.height else (long, edge), _BICUBIC)


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


def _crop_centre(image: Image.Image, size: int) -> Image.Image:
    """The middle square; where the image is smaller than it, the rest is black."""
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))
