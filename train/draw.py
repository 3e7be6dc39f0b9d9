"""Draws a scene into an RGB picture and into PNG or JPEG bytes. Knows nothing of questions or of the model's grid."""

import functools
import io
import math
from importlib import resources
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from train.scene import Scene, Thing

SUPERSAMPLING = 4
MIN_CONTRAST = 0.19

MATPLOTLIB_FONTS = (
    "DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSansMono-Bold.ttf",
    "STIXGeneral.ttf", "STIXGeneralBol.ttf", "cmb10.ttf", "cmss10.ttf",
)  # fmt: skip
PACKAGE_FONTS = (
    ("font_roboto", "Roboto-Regular.ttf"), ("font_roboto", "Roboto-Bold.ttf"),
    ("font_source_sans_pro", "SourceSansPro-Regular.ttf"), ("font_source_sans_pro", "SourceSansPro-Bold.ttf"),
    ("font_source_serif_pro", "SourceSerifPro-Bold.ttf"), ("font_lato", "Lato-Regular.ttf"),
    ("font_lato", "Lato-Bold.ttf"), ("font_hanken_grotesk", "HankenGrotesk-Medium.otf"),
)  # fmt: skip


def draw(scene: Scene, random: np.random.Generator) -> Image.Image:
    """Draw the background, then each thing through an antialiased mask. Shapes: out (height, width, 3) uint8."""
    picture = Image.fromarray(_background(scene, random))
    mean = math.sqrt(scene.width * scene.height)
    for thing in scene.things:
        mask = _glyph_mask(thing, mean, random) if thing.is_glyph else _shape_mask(thing, mean)
        left = round(thing.x * scene.width - mask.width / 2)
        top = round(thing.y * scene.height - mask.height / 2)
        picture.paste(thing.rgb, (left, top), mask)
    return picture


def encode(picture: Image.Image, random: np.random.Generator) -> bytes:
    """Save as PNG or, in six of ten pictures, as JPEG of a random quality."""
    buffer = io.BytesIO()
    if random.random() < 0.6:
        picture.save(buffer, "JPEG", quality=int(random.integers(60, 96)))
    else:
        picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _background(scene: Scene, random: np.random.Generator) -> np.ndarray:
    """Paint plain, gradient or noisy paper that no thing drowns in. Shapes: out (height, width, 3) uint8."""
    things = np.array([thing.rgb for thing in scene.things], dtype=np.float64)
    first = _sample_paper(random, things)
    style = random.random()
    if style < 0.25:
        second = _sample_paper(random, things)
        angle = random.uniform(0, 2 * math.pi)
        across = np.linspace(-0.5, 0.5, scene.width)[None, :] * math.cos(angle)
        down = np.linspace(-0.5, 0.5, scene.height)[:, None] * math.sin(angle)
        share = np.clip(across + down + 0.5, 0, 1)[:, :, None]
        # A gradient may pass close to a thing's colour between two good ends, so it only goes part of the way.
        paper = first + (second - first) * share * random.uniform(0.15, 0.5)
    else:
        paper = np.broadcast_to(first, (scene.height, scene.width, 3))
    if style > 0.8:
        paper = paper + random.normal(0, random.uniform(2, 9), size=(scene.height, scene.width, 1))
    return np.clip(paper, 0, 255).astype(np.uint8)


def _sample_paper(random: np.random.Generator, things: np.ndarray) -> np.ndarray:
    """Choose a background colour far from every thing's colour. Shapes: things (things, 3); out (3,)."""
    candidates = random.uniform(0, 255, size=(48, 3))
    grey = candidates.mean(axis=1, keepdims=True)
    candidates = grey + (candidates - grey) * random.uniform(0, 0.7, size=(48, 1))
    if random.random() < 0.45:
        candidates[0] = random.choice([255.0, 255.0, 255.0, 240.0, 128.0, 30.0, 0.0])
    distances = np.linalg.norm(_oklab(candidates)[:, None] - _oklab(things)[None], axis=-1).min(axis=1)
    good = np.flatnonzero(distances > MIN_CONTRAST)
    return np.asarray(candidates[good[0] if len(good) else distances.argmax()])


def _oklab(rgb: np.ndarray) -> np.ndarray:
    """Convert sRGB to Oklab, where equal distances look equal. Shapes: (n, 3) to (n, 3). Source: Ottosson 2020."""
    linear = (rgb / 255) ** 2.2
    cones = linear @ np.array([[0.4122, 0.2119, 0.0883], [0.5363, 0.6807, 0.2817], [0.0514, 0.1074, 0.6300]])
    return np.asarray(
        np.cbrt(cones) @ np.array([[0.2105, 1.9780, 0.0259], [0.7936, -2.4286, 0.7828], [-0.0041, 0.4506, -0.8087]])
    )


def outline(thing: Thing) -> np.ndarray:
    """List a shape's corners, upright, with its bounding box centred. Shapes: (corners, 2), Units: diameters."""
    if thing.kind == "square":
        return np.array([(-0.44, -0.44), (0.44, -0.44), (0.44, 0.44), (-0.44, 0.44)])
    if thing.kind == "triangle":
        return np.array([(0, -0.47), (0.52, 0.45), (-0.52, 0.45)])
    if thing.kind == "star":
        angles = np.arange(10) * math.pi / 5 - math.pi / 2
        radii = np.where(np.arange(10) % 2 == 0, 0.57, 0.25)
        return np.stack([np.cos(angles) * radii, np.sin(angles) * radii + 0.05], axis=1)
    angles = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) / 2


def _shape_mask(thing: Thing, mean: float) -> Image.Image:
    corners = outline(thing) * np.array([math.sqrt(thing.stretch), 1 / math.sqrt(thing.stretch)])
    angle = math.radians(thing.rotation)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    scale = thing.diameter * mean * SUPERSAMPLING
    side = 2 * math.ceil(0.66 * thing.diameter * mean)
    mask = Image.new("L", (side * SUPERSAMPLING, side * SUPERSAMPLING))
    points = (corners @ turn) * scale + side * SUPERSAMPLING / 2
    ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in points], fill=255)
    return mask.reduce(SUPERSAMPLING)


def _glyph_mask(thing: Thing, mean: float, random: np.random.Generator) -> Image.Image:
    ink = _ink(thing.kind, int(random.integers(len(font_paths()))))
    height = thing.diameter * mean
    width = min(height * ink.width / ink.height * thing.stretch, height * 1.1)
    mask = ink.resize((max(4, round(width)), round(height)), Image.Resampling.BOX if height < 60 else None)
    return mask.rotate(thing.rotation, Image.Resampling.BICUBIC, expand=True)


@functools.cache
def font_paths() -> tuple[Path, ...]:
    """List the font files the glyphs are drawn in."""
    shipped = Path(mpl.get_data_path()) / "fonts" / "ttf"
    packages = tuple(Path(str(resources.files(package) / "files" / name)) for package, name in PACKAGE_FONTS)
    return tuple(shipped / name for name in MATPLOTLIB_FONTS) + packages


@functools.cache
def _ink(character: str, font: int) -> Image.Image:
    """Draw one character large, cut to its ink."""
    face = ImageFont.truetype(str(font_paths()[font]), 240)
    canvas = Image.new("L", (480, 420))
    ImageDraw.Draw(canvas).text((100, 60), character, font=face, fill=255)
    return canvas.crop(canvas.getbbox())
