"""An encoded picture in, its first frame as RGB out: the pixels that a person would see, or those of a reference.

A person sees it upright by its EXIF orientation, transparency on white, 16 bits scaled to 8. The original's code takes
it as it lies, drops alpha and clips 16 bits; the hub's library turns it, has white behind it, and clips. Runs in the
decode child only. No text of the image library leaves this module: those may hold addresses in memory.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Final

from PIL import GifImagePlugin, Image, JpegImagePlugin, MpoImagePlugin, PngImagePlugin, WebPImagePlugin

from lavatube.errors import ImageRejected, ImageTooLarge
from lavatube.prompt.images import Format, ImageLimits, Reading, check_size

# Pillow imports its plugins when it first needs them; here they are there before the first picture.
PLUGINS: Final = (GifImagePlugin, JpegImagePlugin, MpoImagePlugin, PngImagePlugin, WebPImagePlugin)

_BROKEN: Final = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    NotImplementedError,
    struct.error,
    zlib.error,
)
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG: Final = 0x0112
_BAND_ROWS: Final = 256


def rasterise(data: bytes, form: Format, limits: ImageLimits, reading: Reading = "person") -> Image.Image:
    """Decode one picture.

    Raises: ImageRejected, ImageTooLarge, BadImageDimensions, each with a text of ours.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=(form,))
        check_size(*image.size, limits)
        if form == "PNG":
            _check_sums(data)
        image.load()
        if reading == "original":
            return image.convert("RGB")
        return _upright(_rgb(image, reading), _orientation(image))
    except Image.DecompressionBombError:
        raise ImageTooLarge(
            f"The picture has more than {limits.max_pixels} pixels.", remedy="Make it smaller before sending it."
        ) from None
    except _BROKEN:
        raise ImageRejected(
            "The picture's file is broken: it can't be decoded.", remedy="Save it again, and send that."
        ) from None


def _check_sums(data: bytes) -> None:
    """Loading a PNG passes over the check sums of its pixels. Raises: SyntaxError."""
    Image.open(io.BytesIO(data), formats=("PNG",)).verify()


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except _BROKEN:
        return 1  # a picture with broken metadata is shown as it lies
    return value if isinstance(value, int) else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


def _rgb(image: Image.Image, reading: Reading) -> Image.Image:
    if image.mode.startswith("I") and reading == "person":
        return _from_16_bits(image)
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        return _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Scale grey, where a plain conversion would clip nearly everything to white."""
    table = [(value * 255 + 32767) // 65535 for value in range(65536)]
    transparent = image.info.get("transparency")
    if isinstance(transparent, int) and 0 <= transparent < 65536:
        table[transparent] = 255
    return image.convert("I").point(table, "L").convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """Composite in bands: a whole second picture with alpha would double the memory."""
    flat = Image.new("RGB", image.size)
    for top in range(0, image.height, _BAND_ROWS):
        band = image.crop((0, top, image.width, min(top + _BAND_ROWS, image.height))).convert("RGBA")
        white = Image.new("RGBA", band.size, (255, 255, 255, 255))
        flat.paste(Image.alpha_composite(white, band).convert("RGB"), (0, top))
    return flat
