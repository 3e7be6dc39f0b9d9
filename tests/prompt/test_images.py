"""The gate of pictures: first bytes and header numbers."""

from __future__ import annotations

import pytest

from lavatube.errors import BadImageDimensions, ImageRejected, ImageTooLarge, UnsupportedImage
from lavatube.prompt.images import ImageLimits, check_size, recognise

from .builders import encoded, scene

LIMITS = ImageLimits()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
def test_format_is_told_by_the_first_bytes(form: str) -> None:
    assert recognise(encoded(scene(), form), LIMITS) == form


@pytest.mark.parametrize(
    "data",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<?xml version='1.0'?>",
        b"%PDF-1.4",
        b"%!PS-Adobe",
        b"8BPS",
        b"\0\0\0\x18ftypheic",
        b"BM\0\0",
        b"\xff\x0a",
        encoded(scene(), "TIFF"),
        encoded(scene(), "JPEG2000"),
    ],
)
def test_known_formats_that_are_not_taken_are_named_so(data: bytes) -> None:
    with pytest.raises(UnsupportedImage) as caught:
        recognise(data, LIMITS)
    assert "PNG, JPEG, WebP or GIF" in caught.value.sentence


@pytest.mark.parametrize(
    "data", [b"", b"\x89", b"<!DOCTYPE html>", b'{"error": 404}', b"\n" + encoded(scene()), b"\x80\x04\x95"]
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(ImageRejected) as caught:
        recognise(data, LIMITS)
    assert caught.value.code == "invalid_image"


def test_bytes_are_counted_before_anything_else() -> None:
    with pytest.raises(ImageTooLarge):
        recognise(encoded(scene()), ImageLimits(max_bytes=10))


@pytest.mark.parametrize(
    ("width", "height", "error"),
    [
        (0, 8, ImageRejected),
        (8, 0, ImageRejected),
        (8000, 8000, ImageTooLarge),
        (2**31 - 1, 2**31 - 1, ImageTooLarge),
        (2**32 - 1, 1, ImageTooLarge),
        (16_385, 100, BadImageDimensions),
        (65_500, 1, BadImageDimensions),
        (201, 1, BadImageDimensions),
        (1, 201, BadImageDimensions),
    ],
)
def test_sizes_out_of_bounds(width: int, height: int, error: type[ImageRejected]) -> None:
    with pytest.raises(error) as caught:
        check_size(width, height, LIMITS)
    assert type(caught.value) is error


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (200, 1), (1, 200), (16_384, 82), (7071, 7071)])
def test_sizes_within_bounds(size: tuple[int, int]) -> None:
    check_size(*size, LIMITS)
