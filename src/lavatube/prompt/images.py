"""What a picture is allowed to be: four formats, told by their first bytes, and limits on bytes, pixels and shape.

Pure: bytes and numbers in, a format or a refusal out. Opens no picture and imports no image library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from lavatube.errors import BadImageDimensions, ImageRejected, ImageTooLarge, UnsupportedImage

Format = Literal["PNG", "JPEG", "WEBP", "GIF"]
# How a file becomes RGB: as a person sees it, or bit for bit as the original's code or the hub's library reads it.
Reading = Literal["person", "original", "hf"]

FORMATS_REMEDY: Final = "Send a PNG, JPEG, WebP or GIF."

# Formats that people do send and that are refused by name: offset and bytes.
_OTHER_FORMATS: Final = (
    (0, b"<svg"),
    (0, b"<?xml"),
    (0, b"%PDF"),
    (0, b"%!PS"),
    (0, b"8BPS"),
    (0, b"SIMPLE  ="),
    (0, b"II*\0"),
    (0, b"MM\0*"),
    (0, b"BM"),
    (0, b"\0\0\1\0"),
    (0, b"\0\0\2\0"),
    (0, b"P6"),
    (0, b"\0\0\0\x0cjP"),
    (0, b"\xff\x0a"),
    (4, b"ftyp"),
)


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The most that one request may ask of the picture decoder; `max_aspect` is the long side over the short one."""

    max_images: int = 8
    max_bytes: int = 20 * 1024 * 1024
    max_pixels: int = 50_000_000
    max_side: int = 16_384
    max_aspect: int = 200


def recognise(data: bytes, limits: ImageLimits) -> Format:
    """The format of an encoded picture, whatever its sender calls it.

    Raises: ImageTooLarge, UnsupportedImage for formats known but not taken, ImageRejected for anything else.
    """
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(f"The picture's file has more than {limits.max_bytes} bytes.", remedy="Send a smaller one.")
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if any(data[offset : offset + len(magic)] == magic for offset, magic in _OTHER_FORMATS):
        raise UnsupportedImage("The picture is in a format that is not taken.", remedy=FORMATS_REMEDY)
    raise ImageRejected("The picture is not an image file.", remedy=FORMATS_REMEDY)


def check_size(width: int, height: int, limits: ImageLimits) -> None:
    """Refuse a picture by what its header claims, before a pixel of it is decoded.

    Raises: ImageRejected, ImageTooLarge, BadImageDimensions.
    """
    if width < 1 or height < 1:
        raise ImageRejected("The picture has no pixels.", remedy="Send another one.")
    if width * height > limits.max_pixels:
        raise ImageTooLarge(
            f"The picture has more than {limits.max_pixels} pixels.", remedy="Make it smaller before sending it."
        )
    if max(width, height) > limits.max_side:
        raise BadImageDimensions(
            f"The picture is longer than {limits.max_side} pixels on one side.",
            remedy="Make it smaller before sending it.",
        )
    if max(width, height) > limits.max_aspect * min(width, height):
        raise BadImageDimensions(
            f"The picture is more than {limits.max_aspect} times as long as it is wide.", remedy="Send a part of it."
        )
