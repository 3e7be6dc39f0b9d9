"""What an image processor's config says about pixels, as transformers reads it, in; a PixelSpec out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from lavatube.checkpoint.files import MAX_NUMBER, Section
from lavatube.checkpoint.towers import MAX_IMAGE_SIZE
from lavatube.errors import UnsupportedCheckpoint
from lavatube.spec import PixelMode, PixelSpec

CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)
SIGLIP_MEAN: Final = (0.5, 0.5, 0.5)
NEXT_GRIDS: Final = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
ONEVISION_GRIDS: Final = tuple((384 * rows, 384 * cols) for rows in range(1, 7) for cols in range(1, 7))
MAX_GRIDS: Final = 256
MAX_GRID_TILES: Final = 64

_BICUBIC: Final = 3
Size = int | tuple[int, int]  # the shortest edge, or (height, width)


@dataclass(frozen=True, slots=True)
class _Processor:
    """What a class of image processors takes for granted. Grids are (height, width), as its files have them."""

    size: Size
    crop: Size | None
    has_crop: bool
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    grids: tuple[tuple[int, int], ...] = ()
    several: Literal["same", "pad"] = "same"


_PROCESSORS: Final = {  # by the beginning of the class's name: each has a variant or two
    "CLIPImageProcessor": _Processor(size=224, crop=224, has_crop=True),
    "CLIPFeatureExtractor": _Processor(size=224, crop=224, has_crop=True),
    "LlavaImageProcessor": _Processor(size=224, crop=224, has_crop=True),
    "SiglipImageProcessor": _Processor((224, 224), None, has_crop=False, mean=SIGLIP_MEAN, std=SIGLIP_MEAN),
    "LlavaNextImageProcessor": _Processor(size=224, crop=224, has_crop=True, grids=NEXT_GRIDS),
    "LlavaOnevisionImageProcessor": _Processor((384, 384), None, has_crop=False, grids=ONEVISION_GRIDS, several="pad"),
}


def read_pixels(config: Section, image_size: int, default_kind: str) -> tuple[PixelSpec, str]:
    """How images are cut for a tower that reads squares of `image_size`, and why. Raises: UnsupportedCheckpoint."""
    kind = str(config.get("image_processor_type", config.get("feature_extractor_type", default_kind)))
    processor = next((known for name, known in _PROCESSORS.items() if re.match(rf"{name}(Fast|Pil)?$", kind)), None)
    if processor is None:
        raise UnsupportedCheckpoint(f"{config.where}: images are cut by a {kind:.80}, not served yet.")
    _check_steps(config)
    size = _edges(config, "size", processor.size)
    crop = _edges(config, "crop_size", processor.crop or size)
    has_crop = config.flag("do_center_crop", default=processor.has_crop)
    if processor.grids:
        final, mode, reason = _anyres_tile(config, size, crop if config.get("crop_size", processor.crop) else size)
    else:
        final, mode, reason = _one_tile(config, size, crop, has_crop=has_crop)
    if final != (image_size, image_size):
        raise UnsupportedCheckpoint(
            f"{config.where} makes images of {final[1]}x{final[0]}; the tower reads {image_size}²."
        )
    pixels = PixelSpec(
        mode=mode,
        size=image_size,
        resize=_square(size)[0],
        mean=_three(config, "image_mean", processor.mean),
        std=_positive(_three(config, "image_std", processor.std), config.name("image_std")),
        rescale=config.number("rescale_factor", 1 / 255),
        grids=read_grids(config, processor.grids, image_size),
        several=processor.several,
        rounding="round",
    )
    return pixels, f"{config.where}: {kind}, {reason}"


def read_grids(config: Section, default: tuple[tuple[int, int], ...], tile: int) -> tuple[tuple[int, int], ...]:
    """The grids as (width, height), in the order of the list, which has (height, width)."""
    if not default:
        return ()
    listed = config.get("image_grid_pinpoints", [list(grid) for grid in default])
    if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_GRIDS:
        raise UnsupportedCheckpoint(f"{config.name('image_grid_pinpoints')} is no list of 1 to {MAX_GRIDS} sizes.")
    sizes = (check_grid(grid, tile, config.name("image_grid_pinpoints")) for grid in listed)
    return tuple((width, height) for height, width in sizes)


def check_grid(grid: object, tile: int, name: str) -> tuple[int, int]:
    """Both sides of a grid, in the order that it has them. Raises: UnsupportedCheckpoint."""
    match grid:
        case [int(first), int(second)] if first > 0 and second > 0 and first % tile == second % tile == 0:
            if (first // tile) * (second // tile) > MAX_GRID_TILES:
                raise UnsupportedCheckpoint(f"{name}: {grid!r:.80} has more than {MAX_GRID_TILES} tiles of {tile} px.")
            return first, second
        case _:
            raise UnsupportedCheckpoint(f"{name}: {grid!r:.80} are no two sides in whole tiles of {tile} px.")


def _check_steps(config: Section) -> None:
    if config.get("resample", _BICUBIC) != _BICUBIC:
        raise UnsupportedCheckpoint(f"{config.where}: only bicubic resampling (resample = {_BICUBIC}) is served.")
    for key in ("do_resize", "do_rescale", "do_normalize"):
        if not config.flag(key, default=True):
            raise UnsupportedCheckpoint(f"{config.where}: {key} = false is not served.")


def _one_tile(config: Section, size: Size, crop: Size, *, has_crop: bool) -> tuple[tuple[int, int], PixelMode, str]:
    """The final (height, width), the mode and its reason."""
    final = _square(crop) if has_crop else _square(size)
    if config.get("do_pad"):
        return final, "pad", "do_pad is set"
    if isinstance(size, tuple) and size == final:
        return final, "stretch", "size has height and width"
    if isinstance(size, int) and has_crop:
        return final, "crop", "size has a shortest edge, and the centre is cropped"
    raise UnsupportedCheckpoint(
        f"{config.where}: size = {config.get('size')!r:.80} with crop_size = {config.get('crop_size')!r:.80} "
        f"and do_center_crop = {has_crop!r} is not served."
    )


def _anyres_tile(config: Section, size: Size, crop: Size) -> tuple[tuple[int, int], PixelMode, str]:
    """A tile must need neither a second resize nor a crop, as in all that were published."""
    if _square(size) != _square(crop):
        raise UnsupportedCheckpoint(f"{config.where}: tiles of another size than the base image are not served.")
    return _square(size), "anyres", "the grid that suits the image, and the whole image stretched"


def _edges(config: Section, key: str, default: Size) -> Size:
    """A processor's size: its shortest edge, or (height, width)."""
    match config.get(key, default):
        case int(edge) | {"shortest_edge": int(edge)} if 0 < edge <= MAX_IMAGE_SIZE:
            return edge
        case (int(height), int(width)) | {"height": int(height), "width": int(width)} if (
            min(height, width) > 0 and max(height, width) <= MAX_IMAGE_SIZE
        ):
            return height, width
        case size:
            raise UnsupportedCheckpoint(f"{config.name(key)}: a size of {size!r:.80} is not understood.")


def _square(size: Size) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


def _three(config: Section, key: str, default: tuple[float, float, float]) -> tuple[float, float, float]:
    match config.get(key, list(default)):
        case [int() | float() as r, int() | float() as g, int() | float() as b] if all(
            abs(value) < MAX_NUMBER for value in (r, g, b)
        ):
            return float(r), float(g), float(b)
        case values:
            raise UnsupportedCheckpoint(f"{config.name(key)} = {values!r:.80} is not three numbers.")


def _positive(values: tuple[float, float, float], name: str) -> tuple[float, float, float]:
    if min(values) <= 0:
        raise UnsupportedCheckpoint(f"{name} = {list(values)!r} divides by nothing positive.")
    return values
