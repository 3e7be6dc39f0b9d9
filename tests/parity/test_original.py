"""The original layout: the same weights in both layouts are the same model, and it is the one of `transformers`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from lavatube.geometry import plan_image
from lavatube.predictor import Predictor
from tests.adapted import leave_adapter, leave_projector
from tests.checkpoints import write_checkpoint
from tests.model.driver import Driver, Stream
from tests.originals import write_original
from tests.parity.reference import Pair, Part, Prompt
from tests.parity.test_llava import assert_logits_close

CPU = torch.device("cpu")
NUM_NEW_TOKENS = 16
NEXT: dict[str, object] = {"family": "llava_next"}
ONEVISION: dict[str, object] = {
    "family": "llava_onevision",
    "tower": "siglip",
    "select_layer": -1,
    "select_strategy": "full",
    "language": "qwen2",
}
FAMILIES: dict[str, dict[str, object]] = {
    "1.5": {},
    "1.5 on Mistral": {"language": "mistral", "sliding_window": 24},
    "1.6 on Vicuna": NEXT,
    "1.6 on Mistral": NEXT | {"language": "mistral"},
    "1.6 on Qwen": NEXT | {"language": "qwen2"},
    "Interleave": ONEVISION | {"family": "llava"},
    "OneVision": ONEVISION,
    "OneVision, tied": ONEVISION | {"tied": True},
    "ViP-LLaVA": {"family": "vipllava", "vision_layers": 12, "select_layer": (-2, -5, -8, -11, 6)},
    "class token kept": {"select_strategy": "full"},
    "first layers": {"select_layer": 1},
}
FILES: dict[str, dict[str, object]] = {
    "own tower": {"tower": "own"},
    "own tower, in files of torch": {"tower": "own", "torch_files": True, "num_shards": 3},
    "tower beside the folder": {"tower": "beside"},
    "tower inside, in files of torch": {"tower": "inside", "torch_files": True},
    "in shards": {"num_shards": 2},
}
SIZES: tuple[Part, ...] = (5, (32, 32), 6, (100, 40), 4, (41, 90), 7)

Layouts = tuple[Pair, Pair]
Build = Callable[..., Layouts]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A checkpoint in both layouts: the llava-hf one, which has a reference, and ours to judge."""

    @cache
    def hf(**recipe: object) -> Pair:
        return Pair(write_checkpoint(tmp_path_factory.mktemp("hf") / "model", **recipe), CPU)

    def both(files: dict[str, object], **recipe: object) -> Layouts:
        reference = hf(**recipe)
        folder = tmp_path_factory.mktemp("original") / "anything"
        return reference, Pair(write_original(folder, reference.folder, **files), CPU)  # type: ignore[arg-type]

    return both


def original_prompt(pair: Pair, reference: Pair, prompt: Prompt) -> Prompt:
    """The same prompt with this layout's placeholder and its own plan of the images."""
    ids = prompt.token_ids.clone()
    ids[ids == reference.spec.image_token_id] = pair.spec.image_token_id
    plans = tuple(plan_image(pair.spec, *size, num_images=len(prompt.sizes)) for size in prompt.sizes)
    return replace(prompt, token_ids=ids, plans=plans)


def embed(pair: Pair, prompt: Prompt) -> Tensor:
    """Shapes: (T, hidden)."""
    is_image = prompt.token_ids == pair.spec.image_token_id
    embeddings = pair.ours.embed_tokens(prompt.token_ids.masked_fill(is_image, 0)).clone()
    if prompt.plans:
        embeddings[is_image] = torch.cat(pair.image_rows(prompt))
    return embeddings


def logits(pair: Pair, prompt: Prompt) -> Tensor:
    """Shapes: (T, vocab)."""
    return Driver(pair.ours, pair.spec).step([(Stream(), embed(pair, prompt))])[0]


def assert_same_model(reference: Pair, pair: Pair, *parts: Part) -> None:
    prompt = reference.prompt(*parts)
    own = original_prompt(pair, reference, prompt)
    assert [plan.num_tokens for plan in own.plans] == [plan.num_tokens for plan in prompt.plans]
    their_rows = reference.their_image_rows(prompt) if prompt.plans else []
    for ours, theirs in zip(pair.image_rows(own), their_rows, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert_logits_close(logits(pair, own), reference.their_logits(prompt))
    answer = Driver(pair.ours, pair.spec).generate([embed(pair, own)], NUM_NEW_TOKENS)[0]
    assert answer == reference.their_next(prompt, answer)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_family_is_the_model_of_transformers(build: Build, family: dict[str, object]) -> None:
    reference, pair = build({}, **family)
    assert (reference.spec.layout, pair.spec.layout) == ("llava-hf", "original")
    assert_same_model(reference, pair, 40)
    # Several images for OneVision are other tiles than one; transformers takes the same decision from their number.
    parts = (
        [SIZES] if reference.spec.pixels.several == "same" else [SIZES[:3], (4, (100, 40), 9), (3, "image", "image")]
    )
    for one in parts:
        assert_same_model(reference, pair, *one)


@pytest.mark.parametrize("files", FILES.values(), ids=FILES)
def test_wherever_the_weights_lie(build: Build, files: dict[str, object]) -> None:
    reference, pair = build(files, **NEXT)
    assert_same_model(reference, pair, *SIZES)


def test_the_tower_of_the_checkpoint_counts_only_where_it_was_trained(build: Build) -> None:
    """Row 8 of the measured facts: the very same files with the flag turned are another model."""
    reference, pair = build({"tower": "own"})
    config = json.loads((pair.folder / "config.json").read_text())
    prompt = original_prompt(pair, reference, reference.prompt(5, "image", 8))
    own = logits(pair, prompt)
    (pair.folder / "config.json").write_text(json.dumps(config | {"unfreeze_mm_vision_tower": False}))
    separate = logits(Pair(pair.folder, CPU), prompt)
    assert (own - separate).abs().max() > 0.1
    tunable = {"unfreeze_mm_vision_tower": False, "mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter"}
    (pair.folder / "config.json").write_text(json.dumps(config | tunable))
    assert torch.equal(logits(Pair(pair.folder, CPU), prompt), own)


@pytest.mark.parametrize("kind", ["linear", None, "mlp1x_gelu", "mlp3x_gelu"])
def test_projectors_that_the_other_layout_does_not_have(build: Build, kind: str | None) -> None:
    """v0 and v1 have a linear one, which is also what a config means that says nothing."""
    num_layers = 3 if kind == "mlp3x_gelu" else 1
    generator = torch.Generator().manual_seed(1)
    sizes = [(64, 32), (64, 64), (64, 64)][:num_layers]
    layers = [(torch.randn(size, generator=generator) / 8, torch.randn(64, generator=generator)) for size in sizes]

    def change(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.startswith("model.mm_projector.")]:
            del tensors[name]
        for index, (weight, bias) in enumerate(layers):
            number = f"{2 * index}." if kind in ("mlp1x_gelu", "mlp3x_gelu") else ""
            tensors |= {f"model.mm_projector.{number}weight": weight, f"model.mm_projector.{number}bias": bias}

    _, pair = build({"settings": {"mm_projector_type": kind}, "change": change})
    pixels = torch.randint(0, 256, (2, 3, 32, 32), generator=generator, dtype=torch.uint8)
    expected = pair.ours.vision(pixels)
    for index, (weight, bias) in enumerate(layers):
        expected = functional.linear(functional.gelu(expected) if index else expected, weight, bias)
    torch.testing.assert_close(pair.ours.encode_images(pixels), expected)


@pytest.mark.parametrize("grids", ["[(64, 32), (32, 64)]", "[[64, 32], [32, 64]]", "(1x1),...,(2x3)"])
def test_spellings_of_grids(build: Build, grids: str) -> None:
    _, pair = build({"settings": {"image_grid_pinpoints": grids}}, **NEXT)
    if "x" in grids:
        assert pair.spec.pixels.grids == ((32, 32), (32, 64), (32, 96), (64, 32), (64, 64), (64, 96))
    else:
        assert pair.spec.pixels.grids == ((64, 32), (32, 64))


@pytest.mark.parametrize("torch_files", [True, False])
def test_a_projector_on_a_base(build: Build, torch_files: bool) -> None:
    reference, pair = build({"torch_files": torch_files})
    leave_projector(pair.folder, torch_files=torch_files)
    assert_same_model(reference, Pair(pair.folder, CPU), 5, "image", 8)


@pytest.mark.parametrize("adapter", ["adapter_model.bin", "adapter_model.safetensors"])
@pytest.mark.parametrize("rslora", [False, True])
def test_lora(build: Build, adapter: str, rslora: bool) -> None:
    reference, pair = build({})
    leave_adapter(pair.folder, adapter, rslora=rslora)
    assert_same_model(reference, Pair(pair.folder, CPU), 5, "image", 8)


def test_whatever_the_form_of_the_files_the_answer_is_the_same(build: Build, tmp_path: Path) -> None:
    """From the folder to the text: the road of a user, by way of provisioning and the engine."""
    buffer = io.BytesIO()
    Image.effect_noise((90, 50), 80).convert("RGB").save(buffer, "PNG")
    folders = [build(files, **NEXT, max_positions=2048)[1].folder for files in ({"tower": "own"}, *FILES.values())]
    on_a_base, adapter = (build({}, **NEXT, max_positions=2048)[1].folder for _ in range(2))
    leave_projector(on_a_base)
    leave_adapter(adapter)
    answers = set()
    for folder in (*folders, on_a_base, adapter):
        with Predictor(str(folder), cache=tmp_path / "cache", dtype="float32") as predictor:
            seen = "".join(predictor.predict(buffer.getvalue(), "What?", temperature=0, max_tokens=NUM_NEW_TOKENS))
            told = "".join(predictor.predict(None, "What?", temperature=0, max_tokens=NUM_NEW_TOKENS))
        answers.add((seen, told))
    assert len(answers) == 1
    assert len(set(*answers)) == 2
