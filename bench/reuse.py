"""What reuse and the pace are worth: an engine with random weights of LLaVA-1.5's shape, questions about pictures.

Follow-up question, eight questions about one picture and about eight, and the gaps of a running stream while a picture
of five squares arrives. Speed only; no word on quality.
"""

from __future__ import annotations

import dataclasses
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence

import torch

from bench.model import SPEC, random_model
from bench.table import show
from lavatube.engine.core import EngineCore
from lavatube.engine.wire import Pixels, Sampling, Submit, Tokens
from lavatube.geometry import plan_image
from lavatube.spec import ModelSpec

ANSWER_TOKENS = 8
QUESTION_TOKENS = 18
ANYRES = dataclasses.replace(
    SPEC,
    family="llava_next",
    merge="unpad",
    has_newline=True,
    pixels=dataclasses.replace(SPEC.pixels, mode="anyres", grids=((336, 672), (672, 336), (672, 672))),
    language=dataclasses.replace(SPEC.language, max_positions=4096),
)


def main(layers: int = SPEC.language.num_layers, pictures: int = 8) -> None:
    """Print the tables."""
    load = f"load {os.getloadavg()[0]:.1f}, {torch.get_num_threads()} threads"
    shape = f"decoder of {layers} layers of 2048, ViT-L, bfloat16"
    show(f"{shape}, {load} (repeat: python -m bench.reuse {layers} {pictures})", _reuse(layers, pictures), "s")
    show(f"gaps of a running stream, {load}", _gaps(layers), "ms")


def _reuse(layers: int, pictures: int) -> dict[str, list[float]]:
    core = _core(SPEC, layers)
    first = _seconds_to_first(core, [_ask("first", picture=1, question=1)])
    follow_up = _seconds_to_first(core, [_ask("follow-up", picture=1, question=2)])
    one = _seconds_in_all(core, [_ask(f"one {index}", picture=2, question=index) for index in range(pictures)])
    several = _seconds_in_all(
        core, [_ask(f"several {index}", picture=10 + index, question=index) for index in range(pictures)]
    )
    return {
        "time to first token: first question": [first],
        "time to first token: follow-up question": [follow_up],
        f"{pictures} questions about one picture, all answers": [one],
        f"{pictures} questions about as many pictures, all answers": [several],
    }


def _gaps(layers: int) -> dict[str, list[float]]:
    """A stream runs alone, and then while a picture is encoded and its prompt computed."""
    core = _core(ANYRES, layers)
    core.submit(Submit("stream", _words(0), [], Sampling(400)))
    quiet = [_step_s(core) for _ in range(12)][2:]
    core.submit(_ask("picture", picture=3, question=3, spec=ANYRES, size=(672, 672)))
    busy = []
    while "picture" not in (taken := _step(core))[1]:
        busy.append(taken[0])
    rows = {"alone": quiet, "while a picture of five squares is taken in": busy}
    ranked = sorted(busy)
    rows["99 of 100 of these"] = [ranked[int(len(ranked) * 0.99) - 1]]
    rows["median of these"] = [statistics.median(busy)]
    return {name: [1000 * value for value in values] for name, values in rows.items()}


def _core(spec: ModelSpec, layers: int) -> EngineCore:
    spec = dataclasses.replace(spec, language=dataclasses.replace(spec.language, num_layers=layers))
    model = random_model(spec, torch.device("cpu"))
    return EngineCore(
        model, spec, num_blocks=640, max_sequences=8, max_step_tokens=1024, image_cache_bytes=256 * 1024 * 1024
    )


def _words(seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(3, 30000) for _ in range(QUESTION_TOKENS)]


def _ask(
    name: str, *, picture: int, question: int, spec: ModelSpec = SPEC, size: tuple[int, int] = (336, 336)
) -> Submit:
    plan = plan_image(spec, *size)
    side = spec.vision.image_size
    data = random.Random(picture).randbytes(plan.tiles * 3 * side * side)
    pixels = Pixels(picture.to_bytes(32), data, plan.tiles, side, plan.num_tokens, *size)
    token_ids = [1, *[spec.image_token_id] * plan.num_tokens, *_words(question)]
    return Submit(name, token_ids, [pixels], Sampling(ANSWER_TOKENS))


def _step(core: EngineCore) -> tuple[float, set[str]]:
    """How long a step took, and who got a token."""
    begun = time.perf_counter()
    events = core.step()
    return time.perf_counter() - begun, {event.request_id for event in events if isinstance(event, Tokens)}


def _step_s(core: EngineCore) -> float:
    return _step(core)[0]


def _seconds_to_first(core: EngineCore, asked: Sequence[Submit]) -> float:
    for request in asked:
        core.submit(request)
    begun = time.perf_counter()
    while not _step(core)[1]:
        pass
    first_s = time.perf_counter() - begun
    while core.has_work:
        core.step()
    return first_s


def _seconds_in_all(core: EngineCore, asked: Sequence[Submit]) -> float:
    begun = time.perf_counter()
    _seconds_to_first(core, asked)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
