"""The forward pass alone, on random weights of LLaVA-1.5's shape with a decoder of 1 B: speed, no word on quality."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from bench.engine.floors import measure_floors
from bench.table import show
from lavatube.model.llava import Llava
from lavatube.model.places import allocate, places
from lavatube.spec import LanguageSpec, ModelSpec, PixelSpec, ProjectorSpec, Quantize, VisionSpec
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
    """Print the tables: each precision's, beside what the machine could do at best."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    floors = measure_floors() if device.type == "cpu" else None
    for quantize in ("none", "int8", "int4") if device.type == "cpu" else ("none",):
        model = random_model(SPEC, device, quantize)
        rows = _measure(model)
        name = "bfloat16" if quantize == "none" else quantize
        title = f"1 B decoder, {name}, {device}, {torch.get_num_threads()} threads (repeat: python -m bench model)"
        show(title, {row: [1000 * value for value in values] for row, values in rows.items()}, "ms")
        if floors is not None:
            read = _bytes_read(model) / min(rows["decode step, 1 stream"])
            flops = 2 * PROMPT_TOKENS * _num_layer_weights() / min(rows[f"prefill of {PROMPT_TOKENS} tokens"])
            print(
                f"decode reads {read / 1e9:.1f} GB/s, {read / floors.bytes_per_s:.2f} of what a sum over memory does; "
                f"prefill {flops / 1e9:.0f} GFLOP/s, {flops / floors.bf16_ops:.2f} of torch's product in bfloat16"
            )
        del model


def random_model(spec: ModelSpec, device: torch.device, quantize: Quantize = "none") -> Llava:
    """In bfloat16, or quantised from it, of weights that are noise."""
    with torch.device("meta"):
        model = Llava(spec)
    allocate(model, device, torch.bfloat16, quantize)
    noise = torch.randn(1 << 22).mul_(0.02).bfloat16()
    with torch.inference_mode():
        for _, place in places(model):
            size = place.shape.numel()
            place.put(noise.repeat(-(-size // len(noise)))[:size].view(place.shape))
    return model


def _measure(model: Llava) -> dict[str, list[float]]:
    """Seconds."""
    driver = Driver(model, SPEC, num_blocks=1024, block_size=16)
    prompt = torch.randn(PROMPT_TOKENS, SPEC.language.hidden_size, dtype=model.dtype, device=model.device)
    streams = [Stream() for _ in range(8)]
    driver.layout([(stream, PROMPT_TOKENS) for stream in streams])  # room for contexts, whose content does not matter
    driver.cache.keys.zero_()
    driver.cache.values.zero_()
    pixels = torch.zeros(1, 3, 336, 336, dtype=torch.uint8)
    return {
        "one image": seconds(lambda: model.encode_images(pixels)),
        f"prefill of {PROMPT_TOKENS} tokens": seconds(lambda: driver.step([(Stream(), prompt)])),
        "decode step, 1 stream": seconds(lambda: driver.step([(streams[0], prompt[:1])])),
        "decode step, 8 streams": seconds(lambda: driver.step([(stream, prompt[:1]) for stream in streams])),
    }


def _bytes_read(model: Llava) -> int:
    """By a decoded token: the decoder's weights and the head's, not the table of embeddings."""
    decoder = sum(weight.nbytes for weight in model.language.parameters()) - model.language.embed_tokens.size_bytes
    assert model.head is not None
    return decoder + model.head.size_bytes


def _num_layer_weights() -> int:
    language = SPEC.language
    key = language.num_kv_heads * language.head_dim
    attention = language.hidden_size * (2 * language.num_heads * language.head_dim + 2 * key)
    return language.num_layers * (attention + 3 * language.hidden_size * language.intermediate_size)


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
