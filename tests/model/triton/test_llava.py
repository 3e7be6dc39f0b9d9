"""A whole model on the kernels for GPUs: the tokens are those of plain torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lavatube.checkpoint.read import read_spec
from lavatube.model.examples import Examples
from lavatube.model.linear import Linear
from lavatube.model.llava import Llava
from lavatube.model.load import load_model
from lavatube.model.replay import Replay, cuda_recorder
from lavatube.spec import ModelSpec, Quantize
from tests.checkpoints import write_checkpoint
from tests.model.driver import Driver, Stream
from tests.model.replaying import Recorder

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
NUM_TOKENS = 6


@pytest.fixture(scope="module", params=[{}, {"language": "qwen2", "sliding_window": 9}], ids=str)
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), **request.param)


def load(folder: Path, device: torch.device, quantize: Quantize = "none") -> tuple[Llava, ModelSpec]:
    spec = read_spec(folder)
    return load_model(spec, folder, device, torch.float32, lambda done, total: None, quantize), spec


def prove(model: Llava, spec: ModelSpec, quantize: Quantize = "none") -> None:
    model.fused.prove(Examples(spec.language, 4, model.dtype, model.device, quantize))
    assert all(operation.is_proven for operation in model.fused.operations.values())


def prompts(model: Llava, spec: ModelSpec) -> list[Tensor]:
    """One of words, and one that begins with a picture."""
    draw = torch.Generator().manual_seed(0)
    size = spec.vision.image_size
    pixels = torch.randint(0, 256, (1, 3, size, size), generator=draw, dtype=torch.uint8)
    words = [model.embed_tokens(torch.randint(3, 300, (count,), generator=draw).to(model.device)) for count in (17, 5)]
    return [words[0].clone(), torch.cat([model.encode_images(pixels)[0], words[1]])]


def test_a_pictures_answer_is_the_same_as_by_torch(folder: Path, device: torch.device) -> None:
    model, spec = load(folder, device)
    expected = Driver(model, spec).generate(prompts(model, spec), NUM_TOKENS)
    prove(model, spec)
    assert Driver(model, spec).generate(prompts(model, spec), NUM_TOKENS) == expected
    assert len(set(map(tuple, expected))) == 2


def test_replayed_steps_give_the_same_answers(folder: Path, device: torch.device) -> None:
    model, spec = load(folder, device)
    expected = Driver(model, spec).generate(prompts(model, spec), NUM_TOKENS)
    prove(model, spec)
    driver, streams = Driver(model, spec), [Stream(), Stream()]
    record = Recorder() if device.type == "cpu" else cuda_recorder()
    replay = Replay(model, driver.cache, driver.take_block(), max_rows=2, max_blocks=64, record=record)
    assert not replay.has(2)
    replay.record_wanted()
    logits = driver.step(list(zip(streams, prompts(model, spec), strict=True)))
    steps = [torch.stack([rows[-1] for rows in logits]).argmax(dim=-1).cpu()]
    while len(steps) < NUM_TOKENS:
        assert replay.has(2)
        layout = driver.layout([(stream, 1) for stream in streams], torch.device("cpu"))
        steps.append(replay.decode(steps[-1], layout)[1].argmax(dim=-1).cpu())
    assert torch.stack(steps, dim=1).tolist() == expected


def test_a_stream_beside_a_prompt_that_comes_in_pieces(folder: Path, device: torch.device) -> None:
    model, spec = load(folder, device)
    stream, prompt = prompts(model, spec)

    def logits() -> list[Tensor]:
        driver, running, coming = Driver(model, spec), Stream(), Stream()
        driver.step([(running, stream[:-3])])
        pieces = zip(stream[-3:].split(1), prompt.split(4), strict=False)
        return [rows for one, piece in pieces for rows in driver.step([(running, one), (coming, piece)])]

    expected = logits()
    prove(model, spec)
    for ours, other in zip(logits(), expected, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("quantize", ["int8", "int4", "fp8"])
def test_quantised_weights_mean_what_they_are_unpacked_to(
    folder: Path, device: torch.device, quantize: Quantize
) -> None:
    model, spec = load(folder, device, quantize)
    prove(model, spec, quantize)
    rows = prompts(model, spec)
    (ours, *_) = Driver(model, spec).step([(Stream(), each) for each in rows])
    for linear in model.modules():
        if isinstance(linear, Linear) and linear.panels is not None:
            linear.weight = torch.nn.Parameter(linear.panels.unpack(), requires_grad=False)
    expected_rows = prompts(model, spec)
    (expected, *_) = Driver(model, spec).step([(Stream(), each) for each in expected_rows])
    torch.testing.assert_close(rows[1], expected_rows[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)
