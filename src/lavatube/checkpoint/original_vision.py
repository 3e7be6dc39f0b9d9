"""The eyes of a checkpoint in the original layout: which tower, which of its states, and how images are cut for it.

The layout names the tower by its repository, and leaves its sizes and its preprocessing to the files there. The two
towers that nearly all published checkpoints have are known here, so that a checkpoint which brings their weights needs
no second repository.

Source: haotian-liu/LLaVA@c121f04 llava/model/multimodal_encoder and llava/mm_utils.py; LLaVA-NeXT@df17966, the same.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Final, Literal

from lavatube.checkpoint.files import Folder, Section
from lavatube.checkpoint.parts import VIP_TOWER, Parts, tower_reference
from lavatube.checkpoint.preprocessor import MAX_GRIDS, check_grid, read_pixels
from lavatube.checkpoint.prompting import Decide
from lavatube.checkpoint.towers import MAX_LAYERS, VISION_KINDS, check_select_layer, read_vision
from lavatube.errors import UnsupportedCheckpoint
from lavatube.spec import Merge, PixelSpec, VisionKind, VisionSpec

VIP_LAYERS: Final = (-2, -5, -8, -11, 6)
MERGES: Final[dict[str, Merge]] = {"flat": "flat", "spatial": "spatial", "spatial_unpad": "unpad"}
_MAX_GRID_TEXT: Final = 16_384
_TUPLES_AS_LISTS: Final = str.maketrans("()", "[]")

_CLIP_LARGE: Final[dict[str, object]] = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
}
_KNOWN: Final[dict[str, dict[str, object]]] = {
    "openai/clip-vit-large-patch14": _CLIP_LARGE | {"image_size": 224},
    "openai/clip-vit-large-patch14-336": _CLIP_LARGE | {"image_size": 336},
    VIP_TOWER: _CLIP_LARGE | {"image_size": 336},
    "google/siglip-so400m-patch14-384": {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "patch_size": 14,
        "image_size": 384,
    },
}


@dataclass(frozen=True, slots=True)
class Eyes:
    """What the files say about vision."""

    vision: VisionSpec
    pixels: PixelSpec
    merge: Merge
    has_norm: bool


def read_eyes(config: Section, parts: Parts, decide: Decide) -> Eyes:
    """Raises: UnsupportedCheckpoint."""
    reference = tower_reference(config)
    section, preprocessor, source = _tower_files(reference, parts)
    model_type = str(section.get("model_type"))
    kind: VisionKind | None = VISION_KINDS.get(f"{model_type.removesuffix('_vision_model')}_vision_model")
    if kind is None:
        raise UnsupportedCheckpoint(f"{section.name('model_type')} = {model_type!r:.80} is no tower that is served.")
    section = section.section("vision_config") if "vision_config" in section else section
    layers, feature = _selection(config, kind, reference, section.count("num_hidden_layers", 12, MAX_LAYERS))
    vision = read_vision(section, kind, layers, feature)
    owner = "the checkpoint's own weights" if parts.tower is None else f"the weights of {parts.tower.reference}"
    decide(
        "vision tower",
        f"{reference}: {kind}, {vision.num_layers} blocks of width {vision.hidden_size}, {vision.image_size} px in "
        f"patches of {vision.patch_size}; {owner}",
        f"config.json: mm_vision_tower, unfreeze_mm_vision_tower, mm_tunable_parts; sizes: {source}",
    )
    decide(
        "image features",
        f"hidden state {', '.join(map(str, layers))}, "
        f"{'without the first row' if feature == 'patch' else 'all rows'}: {vision.num_features} a tile",
        "SigLIP is cut before its last block"
        if kind == "siglip"
        else "config.json: mm_vision_select_layer, mm_vision_select_feature",
    )
    merge = MERGES[config.one_of("mm_patch_merge_type", "flat", MERGES)]
    pixels = _read_pixels(config, preprocessor, vision, decide)
    if merge != "flat" and pixels.mode == "anyres" and vision.num_features != vision.num_patches:
        raise UnsupportedCheckpoint(
            f"config.json: mm_vision_select_feature leaves {vision.num_features} rows of {vision.num_patches} patches, "
            "which mm_patch_merge_type can't lay out as a map."
        )
    return Eyes(vision, pixels, merge, has_norm=reference == VIP_TOWER)


def _tower_files(reference: str, parts: Parts) -> tuple[Section, Section | None, str]:
    """The tower's config, its preprocessor's where a file says so, and where both come from."""
    part = parts.tower if parts.tower is not None else parts.tower_config
    if part is not None and part.folder is not None:
        files = Folder(part.folder)
        where = f"{part.reference}/"
        return (
            Section(f"{where}config.json", files.json("config.json").values),
            Section(f"{where}preprocessor_config.json", files.json("preprocessor_config.json").values) or None,
            f"{where}config.json",
        )
    if parts.tower is not None:
        parts.tower.require()
    if reference not in _KNOWN:
        raise UnsupportedCheckpoint(
            f"config.json: mm_vision_tower = {reference!r:.80} is a tower whose sizes are not known here.",
            remedy="Put its config.json and preprocessor_config.json into the folder vision_tower beside config.json.",
        )
    return Section("vision tower", _KNOWN[reference]), None, f"those of {reference} are known"


def _selection(
    config: Section, kind: VisionKind, reference: str, num_layers: int
) -> tuple[tuple[int, ...], Literal["patch", "full"]]:
    """SigLIP's class deletes the last block and takes all rows of what is then last, whatever config.json says."""
    if kind == "siglip":
        return (-2,), "full"
    name = config.name("mm_vision_select_layer")
    listed = VIP_LAYERS if reference == VIP_TOWER else (config.get("mm_vision_select_layer", -2),)
    layers = tuple(check_select_layer(layer, num_layers, name) for layer in listed)
    feature = config.one_of("mm_vision_select_feature", "patch", {"patch", "cls_patch"})
    return layers, "patch" if feature == "patch" else "full"


def _read_pixels(config: Section, preprocessor: Section | None, vision: VisionSpec, decide: Decide) -> PixelSpec:
    size = vision.image_size
    if vision.kind == "siglip":  # its class brings its own processor, and reads no file
        square = {"height": size, "width": size}
        preprocessor = Section("SigLIP", {"image_processor_type": "SiglipImageProcessor", "size": square})
    elif preprocessor is None:
        preprocessor = Section("CLIP", {"size": size, "crop_size": size})
    pixels, reason = read_pixels(preprocessor, size, "CLIPImageProcessor")
    ratio = config.get("image_aspect_ratio", "square")
    pixels = replace(pixels, rounding="truncate")
    match = re.fullmatch(r"anyres(?:_max_([1-9]\d{0,3}))?", str(ratio))
    if ratio == "pad":
        pixels = replace(pixels, mode="pad")
    elif match:
        if pixels.resize != size:
            raise UnsupportedCheckpoint(f"{preprocessor.where}: tiles of another size than the base are not served.")
        max_tiles = int(match[1]) if match[1] else None
        grids = _read_grids(config, size)
        several: Literal["same", "pad"] = "pad" if max_tiles else "same"
        pixels = replace(pixels, mode="anyres", grids=grids, max_tiles=max_tiles, several=several)
    elif ratio != "square":
        raise UnsupportedCheckpoint(
            f"config.json: image_aspect_ratio = {ratio!r:.80} is not served; square, pad, anyres and anyres_max_N are."
        )
    decide(
        "pixels",
        f"{pixels.mode} to {size} px, bicubic" + (f", {len(pixels.grids)} grids" if pixels.grids else ""),
        f"config.json: image_aspect_ratio = {ratio}; {reason if pixels.mode == 'crop' else preprocessor.where}",
    )
    return pixels


def _read_grids(config: Section, tile: int) -> tuple[tuple[int, int], ...]:
    """Grids are (width, height): a list, its text, or a range such as (1x1),...,(6x6) in tiles."""
    name, value = config.name("image_grid_pinpoints"), config.get("image_grid_pinpoints")
    if isinstance(value, str):
        value = _parse_grids(value, tile, name)
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_GRIDS:
        raise UnsupportedCheckpoint(f"{name} is no list of 1 to {MAX_GRIDS} sizes.")
    return tuple(check_grid(grid, tile, name) for grid in value)


def _parse_grids(text: str, tile: int, name: str) -> object:
    if len(text) > _MAX_GRID_TEXT:
        raise UnsupportedCheckpoint(f"{name} is text of more than {_MAX_GRID_TEXT} characters.")
    corners = [(int(width), int(height)) for width, height in re.findall(r"\((\d{1,3})x(\d{1,3})\)", text)]
    if corners:
        (left, top), (right, bottom) = corners[0], corners[-1]
        if (right - left + 1) * (bottom - top + 1) > MAX_GRIDS:
            raise UnsupportedCheckpoint(f"{name} = {text!r:.80} is a range of more than {MAX_GRIDS} sizes.")
        return [(x * tile, y * tile) for x in range(left, right + 1) for y in range(top, bottom + 1)]
    try:
        return json.loads(text.translate(_TUPLES_AS_LISTS))
    except (ValueError, RecursionError) as error:
        raise UnsupportedCheckpoint(f"{name} = {text!r:.80} is neither a list nor a range of sizes.") from error
