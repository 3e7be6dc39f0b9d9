"""The embedded model: the very folder that we serve, loaded by `transformers`, gives the same logits and answers."""

from __future__ import annotations

from pathlib import Path

import torch

import lavatube
from tests.model.driver import Driver, Stream
from tests.parity.reference import Pair

FOLDER = Path(lavatube.__file__).parent / "tiny"


def test_the_embedded_model_agrees_with_the_reference() -> None:
    pair = Pair(FOLDER, torch.device("cpu"))
    prompt = pair.prompt(4, "image", 12)
    logits = Driver(pair.ours, pair.spec).step([(Stream(), pair.embed(prompt))])[0]
    torch.testing.assert_close(logits, pair.their_logits(prompt), rtol=1e-4, atol=1e-4)
    answer = Driver(pair.ours, pair.spec).generate([pair.embed(prompt)], 20)[0]
    assert answer == pair.their_next(prompt, answer)
