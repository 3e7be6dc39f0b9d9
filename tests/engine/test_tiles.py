"""Pictures of many tiles: laid out as the plan says, in chunks, in company, and with a placeholder that is no token."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from lavatube.checkpoint.read import read_spec
from lavatube.engine.core import EngineCore
from lavatube.engine.wire import Pixels, Submit
from lavatube.geometry import plan_image
from lavatube.model.llava import Llava
from lavatube.model.load import load_model
from lavatube.spec import ModelSpec
from tests.checkpoints import write_checkpoint
from tests.engine.requests import GREEDY, SEEDED, answer, failure, run
from tests.model.driver import Driver

SIZES = ((70, 45), (25, 90))
FAMILIES = {
    "1.6": {"family": "llava_next"},
    "onevision": {
        "family": "llava_onevision",
        "language": "qwen2",
        "tower": "siglip",
        "select_layer": -1,
        "select_strategy": "full",
    },
}


@pytest.fixture(scope="module", params=FAMILIES.values(), ids=FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Llava, ModelSpec]:
    folder: Path = write_checkpoint(tmp_path_factory.mktemp("tiles"), **request.param)
    spec = read_spec(folder)
    return load_model(spec, folder, torch.device("cpu"), torch.float32, lambda done, total: None), spec


def picture(spec: ModelSpec, size: tuple[int, int], num_images: int) -> Pixels:
    plan = plan_image(spec, *size, num_images=num_images)
    side = spec.vision.image_size
    data = random.Random(sum(size)).randbytes(plan.tiles * 3 * side * side)
    return Pixels(b"", data, plan.tiles, side, plan.num_tokens, *size, num_images=num_images)


def ask(spec: ModelSpec, name: str, *sizes: tuple[int, int]) -> Submit:
    """A token before each picture, and five at the end."""
    pictures = [picture(spec, size, len(sizes)) for size in sizes]
    token_ids = []
    for index, pixels in enumerate(pictures):
        token_ids += [20 + index] + [spec.image_token_id] * pixels.num_tokens
    return Submit(name, [*token_ids, 30, 31, 32, 33, 34], pictures, GREEDY)


def core(model: Llava, spec: ModelSpec, max_step_tokens: int = 4096) -> EngineCore:
    return EngineCore(model, spec, num_blocks=128, max_sequences=4, max_step_tokens=max_step_tokens)


def by_hand(model: Llava, spec: ModelSpec, request: Submit) -> list[int]:
    """Embeddings with all pictures' rows in place, and a whole prefill."""
    token_ids = torch.tensor(request.token_ids)
    embeddings = model.embed_tokens(token_ids).clone()
    side = spec.vision.image_size
    rows = []
    for pixels in request.images:
        tiles = torch.frombuffer(bytearray(pixels.data), dtype=torch.uint8).view(-1, 3, side, side)
        plan = plan_image(spec, pixels.width, pixels.height, num_images=pixels.num_images)
        rows.append(model.arrange(model.encode_images(tiles), plan))
    if rows:
        embeddings[token_ids == spec.image_token_id] = torch.cat(rows)
    return Driver(model, spec).generate([embeddings], request.sampling.max_tokens)[0]


@pytest.mark.parametrize("sizes", [(SIZES[0],), SIZES, ()], ids=["one", "two", "none"])
def test_answers_are_those_of_the_model_by_hand(
    loaded: tuple[Llava, ModelSpec], sizes: tuple[tuple[int, int], ...]
) -> None:
    model, spec = loaded
    request = ask(spec, "a", *sizes)
    assert answer(run(core(model, spec), request)["a"]) == by_hand(model, spec, request)


@pytest.mark.parametrize("max_step_tokens", [7, 30])
def test_cut_into_chunks_and_in_company_as_alone(loaded: tuple[Llava, ModelSpec], max_step_tokens: int) -> None:
    model, spec = loaded
    requests = [ask(spec, "a", SIZES[0]), ask(spec, "b", *SIZES), ask(spec, "c")]
    events = run(core(model, spec, max_step_tokens), *requests)
    for request in requests:
        assert answer(events[request.request_id]) == by_hand(model, spec, request)


def test_a_placeholder_one_past_the_vocabulary_is_as_good(loaded: tuple[Llava, ModelSpec]) -> None:
    """Checkpoints of the original layout have no token for a picture."""
    model, spec = loaded
    original = dataclasses.replace(spec, image_token_id=spec.language.vocab_size)
    wanted = answer(run(core(model, spec), ask(spec, "a", SIZES[0]))["a"])
    request = ask(original, "a", SIZES[0])
    assert max(request.token_ids) == spec.language.vocab_size
    assert answer(run(core(model, original), request)["a"]) == wanted
    penalised = replace(request, sampling=replace(SEEDED, repetition_penalty=1.2, num_choices=2))
    assert len(run(core(model, original), penalised)["a"]) == 2 * (SEEDED.max_tokens + 1)


@pytest.mark.parametrize(
    "change",
    [{"tiles": 2}, {"num_tokens": 5}, {"width": 10, "height": 99}, {"num_images": 2}, {"detail": "low"}],
    ids=str,
)
def test_pixels_that_do_not_fit_their_plan_are_refused(
    loaded: tuple[Llava, ModelSpec], change: dict[str, object]
) -> None:
    model, spec = loaded
    request = ask(spec, "a", SIZES[0])
    broken = replace(request, images=[replace(request.images[0], **change)])
    assert failure(run(core(model, spec), broken)["a"]) == "invalid_input"
