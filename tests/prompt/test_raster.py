"""What the model sees is what a person sees; what can't be decoded is refused in words of ours."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image

from lavatube.errors import BadImageDimensions, ImageRejected, ImageTooLarge
from lavatube.prompt.images import ImageLimits, Reading, recognise
from lavatube.prompt.raster import rasterise

from .builders import encoded, png, png_chunk, scene

LIMITS = ImageLimits()
WHITE = (255, 255, 255)


def see(data: bytes, reading: Reading = "person") -> Image.Image:
    image = rasterise(data, recognise(data, LIMITS), LIMITS, reading)
    assert image.mode == "RGB"
    return image


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_lossless_pictures_come_out_as_they_are(form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    assert see(encoded(scene(), form, **options)).tobytes() == scene().tobytes()


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    form = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    image = see(encoded(scene(mode=mode), form))
    assert image.size == (64, 48)
    assert image.getpixel((60, 44)) == WHITE  # a CMYK picture is not its negative


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_pictures_stand_upright(form: str, orientation: int) -> None:
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(orientation)
    upright = scene() if turn is None else scene().transpose(Image.Transpose(turn))
    options = {"quality": 95, "subsampling": 0} if form == "JPEG" else {"lossless": True} if form == "WEBP" else {}
    seen = see(encoded(scene(), form, exif=exif(orientation), **options))
    assert seen.size == upright.size
    for point in ((8, 8), (seen.width - 9, 8), (8, seen.height - 9)):
        pairs = zip(seen.getpixel(point), upright.getpixel(point), strict=True)
        assert all(abs(got - wanted) < 20 for got, wanted in pairs)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # the child hears no warnings
def test_broken_metadata_does_not_hide_the_picture() -> None:
    garbage = b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"A" * 50
    assert see(encoded(scene(), "JPEG", exif=garbage)).size == (64, 48)


def test_what_is_transparent_is_white() -> None:
    hidden = Image.new("RGBA", (300, 300), (0, 0, 0, 0))
    hidden.paste((255, 0, 0, 255), (0, 0, 16, 16))
    image = see(encoded(hidden))
    assert image.getpixel((2, 2)) == (255, 0, 0)
    assert image.getpixel((299, 299)) == WHITE


def test_half_transparent_pixels_are_mixed_as_transformers_mixes_them() -> None:
    image = Image.frombytes("RGBA", (16, 300), bytes(range(256)) * 75)
    white = Image.new("RGBA", image.size, (*WHITE, 255))
    assert see(encoded(image)).tobytes() == Image.alpha_composite(white, image).convert("RGB").tobytes()


def test_transparent_palette_colour_is_white() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 0, 0, 255] + [0] * 762)
    for form in ("PNG", "GIF"):
        assert see(encoded(image, form, transparency=1)).getcolors() == [(64, WHITE)]


@pytest.mark.parametrize(("color", "key"), [(2, (10, 20, 30)), (0, (10,))])
def test_colour_key_transparency_is_white(color: int, key: tuple[int, ...]) -> None:
    extra = png_chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    rows = (b"\0" + bytes(key) * 8) * 8
    assert see(png(8, 8, 8, color, rows, extra)).getcolors() == [(64, WHITE)]


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    values = [x * 257 for x in range(256)]
    ramp = Image.frombytes("I;16", (16, 16), struct.pack("<256H", *values))
    assert see(encoded(ramp)).tobytes() == bytes(value for value in range(256) for _ in range(3))


def test_16_bit_grey_with_a_transparent_value() -> None:
    extra = png_chunk(b"tRNS", struct.pack(">H", 300))
    image = see(png(2, 1, 16, 0, b"\0" + struct.pack(">2H", 300, 0), extra))
    assert [image.getpixel((x, 0)) for x in range(2)] == [WHITE, (0, 0, 0)]


def test_16_bit_colour() -> None:
    row = b"\0" + b"".join(struct.pack(">HHH", x * 4369, 0, 65535 - x * 4369) for x in range(16))
    image = see(png(16, 1, 16, 2, row))
    assert (image.getpixel((0, 0)), image.getpixel((15, 0))) == ((0, 0, 255), (255, 0, 0))


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "MPO"])
def test_only_the_first_frame_counts(form: str) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if form == "WEBP" else {}
    image = see(encoded(frames[0], form, save_all=True, append_images=frames[1:], **options))
    red, green, blue = image.getpixel((16, 16))
    assert red > 250
    assert max(green, blue) < 6


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n",
        encoded(scene())[:20],
        encoded(scene())[: len(encoded(scene())) // 2],
        encoded(scene(640, 480), "JPEG")[:3000],
        encoded(scene(), "GIF")[:-10],
        encoded(scene(), "WEBP")[:60],
        png(8, 8, 3, 2, b"\0" * 200),
        png(8, 8, 8, 5, b"\0" * 200),
        png(512, 512, 8, 2, b"\0" * 100),
        png(8, 8, 8, 2, b"").replace(zlib.compress(b""), b"\x78\x9c" + b"\xff" * 40),
        b"GIF89a\0\0\0\0\x80\0\0\0\0\0\xff\xff\xff\x3b",
        b"\xff\xd8\xff" + b"\xff" * 4096,
    ],
)
def test_broken_files_are_refused_in_our_own_words(data: bytes) -> None:
    with pytest.raises(ImageRejected) as caught:
        see(data)
    assert caught.value.code == "invalid_image"
    assert caught.value.message in (
        "The picture's file is broken: it can't be decoded.",
        "The picture has no pixels.",
    )
    assert caught.value.__cause__ is None


def test_claims_are_checked_before_pixels_are_made() -> None:
    with pytest.raises(ImageTooLarge):
        see(png(20_000, 20_000, 1, 0, b""))
    with pytest.raises(ImageTooLarge):
        see(png(9400, 9400, 1, 0, b""))
    with pytest.raises(BadImageDimensions):
        see(encoded(Image.new("RGB", (20_000, 8))))
    canvas = b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\x80\0\0\0\0\0\xff\xff\xff"
    frame = b"\x2c" + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0\x02\x02\x44\x01\x00\x3b"
    with pytest.raises(ImageTooLarge):
        see(canvas + frame)


def test_compressed_text_that_explodes_is_not_inflated() -> None:
    bomb = png_chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * (64 << 20)))
    with pytest.raises(ImageRejected):
        see(png(8, 8, 8, 2, (b"\0" + b"\1\2\3" * 8) * 8, bomb))


@pytest.mark.parametrize(("reading", "colour"), [("person", 255), ("hf", 255), ("original", 0)])
def test_what_each_world_makes_of_alpha(reading: Reading, colour: int) -> None:
    invisible = encoded(Image.new("RGBA", (32, 32), (0, 0, 0, 0)))
    assert see(invisible, reading).getpixel((16, 16)) == (colour, colour, colour)


@pytest.mark.parametrize(("reading", "size"), [("person", (48, 64)), ("hf", (48, 64)), ("original", (64, 48))])
def test_what_each_world_makes_of_an_orientation(reading: Reading, size: tuple[int, int]) -> None:
    assert see(encoded(scene(64, 48), "JPEG", exif=exif(6)), reading).size == size


@pytest.mark.parametrize(("reading", "grey"), [("person", 128), ("hf", 255), ("original", 255)])
def test_what_each_world_makes_of_16_bits(reading: Reading, grey: int) -> None:
    image = png(1, 1, 16, 0, b"\0" + struct.pack(">H", 128 * 257))
    assert see(image, reading).getpixel((0, 0)) == (grey, grey, grey)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_the_originals_reading_is_a_plain_conversion(mode: str) -> None:
    form = "JPEG" if mode == "CMYK" else "PNG"
    data = encoded(Image.new(mode, (32, 32), 77) if mode == "I;16" else scene(32, 32).convert(mode), form)
    assert see(data, "original").tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()
