"""A checkpoint's spec under the rules of the world it was published in, or under the other world's.

The original's code and the hub's library treat the same weights differently; docs/fidelity.md has the rows and the
numbers. What is asked for and is not the checkpoint's own way is decided here, for front and engine alike. Pure.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Literal

from lavatube.spec import Decision, Fidelity, ModelSpec, PixelMode, PixelSpec

Choice = Literal["auto", "original", "hf"]

# Where one world pads a picture to a square, the other crops it. Stretched squares are stretched by both.
_MODE: Final[dict[tuple[PixelMode, Fidelity], PixelMode]] = {("crop", "original"): "pad", ("pad", "hf"): "crop"}
_TEMPLATE: Final = {("llava_v1", "hf"): "vicuna_hub", ("vicuna_hub", "original"): "llava_v1"}


def with_fidelity(spec: ModelSpec, choice: Choice) -> ModelSpec:
    """The spec as `choice` wants it; auto is the world that the checkpoint comes from."""
    if choice == "auto" or choice == spec.fidelity:
        return spec
    pixels = _pixels(spec.pixels, choice)
    builtin = _TEMPLATE.get((spec.builtin_template, choice), spec.builtin_template)
    decision = Decision(
        "fidelity",
        f"{choice}: pixels {pixels.mode}, template {builtin}",
        f"the fidelity setting; by itself the checkpoint would be read as {spec.fidelity}",
    )
    return replace(
        spec,
        fidelity=choice,
        pixels=pixels,
        template=None,
        builtin_template=builtin,
        decisions=(*spec.decisions, decision),
    )


def _pixels(pixels: PixelSpec, choice: Fidelity) -> PixelSpec:
    """The same list of grids is read as (width, height) by one world and as (height, width) by the other."""
    return replace(
        pixels,
        mode=_MODE.get((pixels.mode, choice), pixels.mode),
        grids=tuple((height, width) for width, height in pixels.grids),
        rounding="truncate" if choice == "original" else "round",
    )
