"""The forward pass alone, on random weights of LLaVA-1.5's shape with a decoder of 1 B: speed, no word on quality."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from bench.table import show
from lavatube.model.llava import Llava
from lavatube.model.places import allocate
from lavatube.spec import LanguageSpec, ModelSpec, PixelSpec, ProjectorSpec, VisionSpec
from tests.model.driver import Driver, Stream

RUNS = 3
PROMPT_TOKENS = 594  # 576 of the image and a short question
SPEC = ModelSpec(
    family="llava",
    layout="llava-hf",
    fidelity="hf",
    merge="flat",
    has_newline=False,
    vision=VisionSpec("clip", 336, 14, 1024, 4096, 24, 16, 1e-5, "quick_gelu", (-2,), "patch"),
    pixels=PixelSpec("crop", 336, 336, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28), 1 / 255),
    projector=ProjectorSpec(2, "gelu", has_bias=True),
    language=LanguageSpec(
        "llama", 2048, 5632, 22, 32, 4, 64, 32064, 1e-5, 10000.0, 2048, "silu", has_tied_embeddings=False
    ),
    image_token_id=32000,
    stop_token_ids=(2,),
    dtype="bfloat16",
    template=None,
    builtin_template="llava_v1",
    decisions=(),
)


def main() -> None:
    """Print the table."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.device("meta"):
        model = Llava(SPEC)
    allocate(model, device, torch.bfloat16)
    for weight in model.parameters():
        weight.normal_(std=0.02)
    driver = Driver(model, SPEC, num_blocks=1024, block_size=16)
    prompt = torch.randn(PROMPT_TOKENS, SPEC.language.hidden_size, dtype=model.dtype, device=device)
    streams = [Stream() for _ in range(8)]
    driver.layout([(stream, PROMPT_TOKENS) for stream in streams])  # room for contexts, whose content does not matter
    driver.cache.keys.zero_()
    driver.cache.values.zero_()
    pixels = torch.zeros(1, 3, 336, 336, dtype=torch.uint8)
    rows = {
        "one image": seconds(lambda: model.encode_images(pixels)),
        f"prefill of {PROMPT_TOKENS} tokens": seconds(lambda: driver.step([(Stream(), prompt)])),
        "decode step, 1 stream": seconds(lambda: driver.step([(streams[0], prompt[:1])])),
        "decode step, 8 streams": seconds(lambda: driver.step([(stream, prompt[:1]) for stream in streams])),
    }
    title = f"1 B decoder, bfloat16, {device}, {torch.get_num_threads()} threads (repeat: python -m bench model)"
    show(title, {name: [1000 * value for value in values] for name, values in rows.items()}, "ms")


def seconds(work: Callable[[], object]) -> list[float]:
    """Each run's time, after one that does not count."""
    times = []
    for _ in range(RUNS + 1):
        begun = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return times[1:]
