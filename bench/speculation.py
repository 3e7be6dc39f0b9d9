"""What guessing ahead is worth: the same questions with and without, one at a time, in turn: `… [SCENES] [TOKENS]`.

`tiny` answers questions about freshly drawn pictures, as in its own measure. A model of random weights says noise, and
shows what guessing costs where there is nothing to guess. The time is that of all steps after an answer's first token.
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
from lavatube.model.load import load_model
from lavatube.prompt.chat import Generation, single_turn
from lavatube.settings import read_settings
from train.evaluate import HELD_OUT_SEED, sample_cases

GUESSES = (0, 2, 4, 7)
ROUNDS = 3
FEW_WORDS = ((400, 100.0), (401, 100.0), (402, 100.0))
TINY = Path(lavatube.__file__).parent / "tiny"


def main(num_scenes: int = 4, num_tokens: int = 48) -> None:
    """Print the tables."""
    _compare("tiny, answers to questions about drawn pictures", TINY, _questions(num_scenes))
    if num_tokens:
        _compare("1.1 B of random weights, noise", shapes()[0].folder(), _noise(num_tokens))
        _compare("1.1 B of random weights, three words at random", shapes()[0].folder(), _noise(num_tokens, FEW_WORDS))


def _noise(num_tokens: int, biases: tuple[tuple[int, float], ...] = ()) -> list[Submit]:
    sampling = Sampling(num_tokens, temperature=1.0, logit_bias=biases)
    return [
        Submit(f"{index}", random.Random(index).choices(range(300, 30000), k=64), [], sampling) for index in range(2)
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


def _compare(title: str, folder: Path, questions: Sequence[Submit]) -> None:
    spec, device = read_spec(folder), torch.device("cpu")
    torch.set_num_threads(choose_threads(0, spec))
    dtype = choose_dtype("auto", spec.dtype, device)
    model = load_model(spec, folder, device, getattr(torch, dtype), lambda done, total: None)
    found: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
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
    show(f"{title}, {dtype}, load {os.getloadavg()[0]:.1f} (repeat: python -m bench.speculation)", found, "tokens/s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
