"""One checkpoint in both layouts, each read by the other world's rules: prompts and pixels are the other's own."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from PIL import Image

from lavatube.checkpoint.read import read_spec
from lavatube.fidelity import Choice, with_fidelity
from lavatube.predictor import Predictor
from lavatube.prompt.chat import Generation, single_turn
from lavatube.prompt.decoder import ImageDecoder
from lavatube.prompt.images import ImageLimits
from lavatube.prompt.prepare import Prepared, Preparer
from tests.checkpoints import write_checkpoint
from tests.originals import write_original

SIZES = [(32, 32), (20, 10), (10, 30), (97, 61), (61, 97), (88, 55), (25, 90)]
FAMILIES = {
    "1.5": {},
    "1.6": {"family": "llava_next"},
    "onevision": {"family": "llava_onevision", "tower": "siglip", "select_layer": -1, "select_strategy": "full"},
}
# What conversions change or leave unchanged: the very same list of grids means other grids in the other world.
ORIGINAL_SETTINGS = {
    "1.5": {"image_aspect_ratio": "pad"},
    "1.6": {"image_grid_pinpoints": [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]},
}

Layouts = tuple[Path, Path]
Prepare = Callable[[Path, Choice, tuple[int, int]], tuple[list[int | str], list[bytes]]]


@pytest.fixture(scope="module", params=FAMILIES)
def layouts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Layouts:
    """The same model as the hub has it, and as its authors do."""
    hub = write_checkpoint(tmp_path_factory.mktemp("hub"), max_positions=4096, **FAMILIES[request.param])
    settings = ORIGINAL_SETTINGS.get(request.param)
    return hub, write_original(tmp_path_factory.mktemp("original") / "model", hub, settings=settings)


@pytest.fixture(scope="module")
def prepare() -> Iterator[Prepare]:
    with ExitStack() as open_ones:
        made: dict[tuple[Path, Choice], tuple[Preparer, int]] = {}

        def prepare(folder: Path, choice: Choice, size: tuple[int, int]) -> tuple[list[int | str], list[bytes]]:
            if (folder, choice) not in made:
                spec = with_fidelity(read_spec(folder), choice)
                preparer = Preparer(spec, folder, ImageLimits(), None, ImageDecoder(1))
                made[folder, choice] = open_ones.enter_context(closing(preparer)), spec.image_token_id
            preparer, image_id = made[folder, choice]
            prepared: Prepared = preparer.prepare(single_turn("What is it?", picture(size)), Generation())
            ids = ["image" if token_id == image_id else token_id for token_id in prepared.token_ids]
            return ids, [image.data for image in prepared.images]

        yield prepare


def picture(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.frombytes("RGB", size, random.Random(str(size)).randbytes(3 * size[0] * size[1])).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_hubs_files_by_the_originals_rules(layouts: Layouts, prepare: Prepare, size: tuple[int, int]) -> None:
    hub, original = layouts
    assert prepare(hub, "original", size) == prepare(original, "auto", size)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_originals_files_by_the_hubs_rules(layouts: Layouts, prepare: Prepare, size: tuple[int, int]) -> None:
    hub, original = layouts
    assert prepare(original, "hf", size) == prepare(hub, "auto", size)


@pytest.mark.parametrize("fidelity", ["auto", "original", "hf"])
def test_front_and_engine_lay_a_picture_out_alike(layouts: Layouts, tmp_path: Path, fidelity: str) -> None:
    """Were they not told the same, the engine would refuse the picture's tokens."""
    for folder in layouts:
        settings = {"model": str(folder), "fidelity": fidelity, "device": "cpu", "cache": tmp_path}
        with Predictor(**settings) as predictor:
            assert list(predictor.predict(picture((20, 10)), "What is it?", temperature=0, max_tokens=3)) is not None
