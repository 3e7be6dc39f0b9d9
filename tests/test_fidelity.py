"""A checkpoint under the other world's rules: pixels, grids, rounding, template, ids."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lavatube.fidelity import with_fidelity
from lavatube.geometry import plan_image
from lavatube.spec import ModelSpec
from tests.prompt.builders import model_spec
from tests.test_geometry import next_spec


def spec(mode: str, fidelity: str) -> ModelSpec:
    return replace(model_spec(mode=mode, template="USER: {{ messages }}"), fidelity=fidelity)


def test_by_itself_a_checkpoint_is_read_as_its_own_world_does() -> None:
    for fidelity in ("hf", "original"):
        own = spec("crop", fidelity)
        assert with_fidelity(own, "auto") is own
        assert with_fidelity(own, fidelity) is own


@pytest.mark.parametrize(
    ("mode", "fidelity", "choice", "expected"),
    [
        ("crop", "hf", "original", "pad"),
        ("pad", "original", "hf", "crop"),
        ("stretch", "hf", "original", "stretch"),
        ("stretch", "original", "hf", "stretch"),
    ],
)
def test_pixels(mode: str, fidelity: str, choice: str, expected: str) -> None:
    assert with_fidelity(spec(mode, fidelity), choice).pixels.mode == expected


def test_the_templates_are_those_of_the_other_world() -> None:
    conversion = replace(spec("crop", "hf"), builtin_template="vicuna_hub")
    original = with_fidelity(conversion, "original")
    assert (original.template, original.builtin_template) == (None, "llava_v1")
    hub = with_fidelity(replace(spec("pad", "original"), template=None), "hf")
    assert (hub.template, hub.builtin_template) == (None, "vicuna_hub")


@pytest.mark.parametrize("size", [(320, 240), (200, 300), (336, 100), (1024, 768), (704, 396)])
def test_grids_and_rounding_change_together(size: tuple[int, int]) -> None:
    hub, original = next_spec(is_hf=True), next_spec()
    assert plan_image(with_fidelity(hub, "original"), *size) == plan_image(original, *size)
    assert plan_image(with_fidelity(original, "hf"), *size) == plan_image(hub, *size)


def test_there_and_back_again() -> None:
    there = with_fidelity(next_spec(), "hf")
    assert with_fidelity(there, "original").pixels == next_spec().pixels


def test_the_decision_is_written_down() -> None:
    decision = with_fidelity(spec("crop", "hf"), "original").decisions[-1]
    assert (decision.subject, decision.choice) == ("fidelity", "original: pixels pad, template llava_v1")
