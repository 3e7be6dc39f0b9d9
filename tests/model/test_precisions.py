"""The whole model in bfloat16, int8 and int4: near float32, and the same whatever else a step computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lavatube.checkpoint.read import read_spec
from lavatube.model.llava import Llava
from lavatube.model.load import load_model
from lavatube.model.native import native
from lavatube.spec import Quantize
from tests.checkpoints import write_checkpoint
from tests.model.driver import Driver, Stream

PRECISIONS: tuple[Quantize, ...] = ("none", "int8", "int4")


@pytest.fixture(scope="module", params=[{}, {"tied": True, "language": "qwen2", "sliding_window": 9}], ids=str)
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), hidden_size=128, **request.param)


def load(folder: Path, dtype: torch.dtype, quantize: Quantize = "none") -> Llava:
    return load_model(read_spec(folder), folder, torch.device("cpu"), dtype, lambda done, total: None, quantize)


def prompts(model: Llava) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [model.embed_tokens(torch.randint(3, 300, (length,), generator=draw)).clone() for length in (23, 5, 40)]


@pytest.mark.parametrize(("quantize", "most"), [*zip(PRECISIONS, (0.02, 0.05, 0.4), strict=True)])
def test_logits_are_near_those_of_float32(folder: Path, quantize: Quantize, most: float) -> None:
    spec = read_spec(folder)
    exact, model = load(folder, torch.float32), load(folder, torch.bfloat16, quantize)
    (expected,) = Driver(exact, spec).step([(Stream(), prompts(exact)[2])])
    (ours,) = Driver(model, spec).step([(Stream(), prompts(model)[2])])
    assert (ours - expected).norm() < most * (expected - expected.mean(dim=-1, keepdim=True)).norm()


@pytest.mark.parametrize(("quantize", "most"), [*zip(PRECISIONS, (0.02, 0.05, 0.05), strict=True)])
def test_pictures_features_are_near_those_of_float32(folder: Path, quantize: Quantize, most: float) -> None:
    size = read_spec(folder).vision.image_size
    pixels = torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expected = load(folder, torch.float32).encode_images(pixels)
    ours = load(folder, torch.bfloat16, quantize).encode_images(pixels)
    assert (ours - expected).norm() < most * expected.norm()


@pytest.mark.skipif(native() is None, reason="the kernels were not built: torch's products depend on what is beside")
@pytest.mark.parametrize("quantize", PRECISIONS)
def test_neither_neighbours_nor_cuts_change_a_bit(folder: Path, quantize: Quantize) -> None:
    spec, model = read_spec(folder), load(folder, torch.bfloat16, quantize)
    rows = prompts(model)
    together = Driver(model, spec).step([(Stream(), each) for each in rows])
    for each, expected in zip(rows, together, strict=True):
        driver, stream = Driver(model, spec), Stream()
        pieces = [driver.step([(stream, piece)])[0] for piece in each.split(7)]
        assert torch.equal(torch.cat(pieces), expected)
    alone = [Driver(model, spec).generate([each], 12)[0] for each in rows]
    assert Driver(model, spec).generate(rows, 12) == alone
