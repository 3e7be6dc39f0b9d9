"""What guessing ahead is worth: the same questions with and without, one at a time: `… [SCENES] [TOKENS] [ROUNDS]`.

`tiny` answers questions about freshly drawn pictures, as in its own measure. A model of random weights says noise, and
shows what guessing costs where there is nothing to guess. The same, made to say after each word the next one of a
dictionary, copies a prompt that holds them in this order, to the end or but for every eighth word: all of its layers
are computed, and have no say. The time is that of all steps after an answer's first token.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import lavatube
from bench.engine.shapes import shapes
from bench.table import show
from lavatube import assembly
from lavatube.checkpoint.read import read_spec
from lavatube.engine.core import EngineCore
from lavatube.engine.load import choose_dtype, choose_threads
from lavatube.engine.wire import Sampling, Submit
from lavatube.model.llava import Llava
from lavatube.model.load import load_model
from lavatube.prompt.chat import Generation, single_turn
from lavatube.settings import read_settings
from lavatube.spec import ModelSpec
from train.evaluate import HELD_OUT_SEED, sample_cases

GUESSES = (0, 4, 7)
FIRST_ID, NUM_IDS = 300, 30000
COPIED = 64
LOUD = 1e4
FEW_WORDS = ((400, 100.0), (401, 100.0), (402, 100.0))
TINY = Path(lavatube.__file__).parent / "tiny"


def main(num_scenes: int = 4, num_tokens: int = 48, num_rounds: int = 3) -> None:
    """Print the tables."""
    if num_scenes:
        _compare(
            "tiny, answers to questions about drawn pictures",
            _load(TINY),
            _questions(num_scenes),
            num_rounds,
        )
    if num_tokens:
        loaded = _load(shapes()[0].folder())
        _compare("1.1 B of random weights, noise", loaded, _noise(num_tokens), num_rounds)
        _compare("three words at random", loaded, _noise(num_tokens, FEW_WORDS), num_rounds)
        _have_it_copy(loaded[1])
        for title, every in (("a copy of the prompt", 0), ("a copy but for every eighth word", 8)):
            _compare(title, loaded, _copies(num_tokens, every), num_rounds)


def _load(folder: Path) -> tuple[ModelSpec, Llava]:
    spec, device = read_spec(folder), torch.device("cpu")
    torch.set_num_threads(choose_threads(0, spec))
    dtype = choose_dtype("auto", spec.dtype, device)
    return spec, load_model(spec, folder, device, getattr(torch, dtype), lambda done, total: None)


def _have_it_copy(model: Llava) -> None:
    """After id N it says N + 1: embeddings drown what the layers add, and the head looks for the one before."""
    assert model.head is not None
    with torch.inference_mode():
        rows = model.embed_tokens(torch.arange(model.head.outputs))
        model.head.put(0, rows.roll(1, dims=0))
        model.language.embed_tokens.put(0, LOUD * rows)


def _copies(num_tokens: int, every: int) -> list[Submit]:
    """The prompt ends where its text begins again; of that text every so manieth word is another than will be said."""
    found = []
    for index in range(2):
        rng = random.Random(index)
        first = rng.randrange(FIRST_ID, NUM_IDS - COPIED)
        text = [
            rng.randrange(FIRST_ID, NUM_IDS) if every and n % every == every - 1 else first + n for n in range(COPIED)
        ]
        found.append(
            Submit(f"{index}", [*text, first - 1, first, first + 1], [], Sampling(num_tokens, temperature=0.0))
        )
    return found


def _noise(num_tokens: int, biases: tuple[tuple[int, float], ...] = ()) -> list[Submit]:
    sampling = Sampling(num_tokens, temperature=1.0, logit_bias=biases)
    return [
        Submit(f"{index}", random.Random(index).choices(range(FIRST_ID, NUM_IDS), k=COPIED), [], sampling)
        for index in range(2)
    ]


def _questions(num_scenes: int) -> list[Submit]:
    preparer = assembly.make_preparer(read_spec(TINY), TINY, read_settings())
    found = []
    try:
        for index, case in enumerate(sample_cases(HELD_OUT_SEED, num_scenes)):
            chat = single_turn(case.exchange.question, case.file)
            prepared = preparer.prepare(chat, Generation(max_tokens=110, temperature=0.0))
            found.append(Submit(f"{index}", prepared.token_ids, list(prepared.images), prepared.sampling))
    finally:
        preparer.close()
    return found


def _compare(title: str, loaded: tuple[ModelSpec, Llava], questions: Sequence[Submit], num_rounds: int) -> None:
    spec, model = loaded
    found: dict[str, list[float]] = {}
    for _ in range(num_rounds):
        for max_guess in GUESSES:
            core = EngineCore(
                model,
                spec,
                num_blocks=256,
                max_sequences=8,
                max_step_tokens=1024,
                is_reusing=False,
                max_guess=max_guess,
            )
            steps, seconds, tokens = 0, 0.0, 0
            for question in questions:
                core.submit(question)
                core.step()
                begun = time.perf_counter()
                while core.has_work:
                    tokens += sum(hasattr(event, "token_ids") for event in core.step())
                    steps += 1
                seconds += time.perf_counter() - begun
            guesses = core.guesses
            told = (
                f"{guesses.right} of {guesses.made} right, {tokens / steps:.2f} tokens a step" if guesses.made else ""
            )
            found.setdefault(f"at most {max_guess}: {told}", []).append(tokens / seconds)
    show(
        f"{title}, {model.dtype}, load {os.getloadavg()[0]:.1f} (python -m bench.speculation)",
        found,
        "tokens/s",
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
