"""`python -m train.examples FOLDER OUTPUT` draws the example pictures and lets the exported model talk about them."""

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console

from train.draw import draw
from train.evaluate import Replier
from train.scene import Scene, Thing, sample_rgb

SEED = 31


def _thing(kind: str, colour: str, size: str, x: float, y: float, diameter: float, rotation: float = 0.0) -> Thing:
    rgb = sample_rgb(np.random.default_rng([SEED, sum(kind.encode() + colour.encode())]), colour)
    return Thing(kind, colour, size, x, y, diameter, rgb, rotation, 1.0)


EXAMPLES: dict[str, tuple[Scene, tuple[str, ...]]] = {
    "shapes.png": (
        Scene(
            480, 360,
            (
                _thing("circle", "red", "large", 0.21, 0.27, 0.36),
                _thing("circle", "blue", "small", 0.80, 0.22, 0.20),
                _thing("star", "yellow", "large", 0.52, 0.55, 0.36, 6),
                _thing("square", "green", "small", 0.15, 0.80, 0.19, -5),
                _thing("triangle", "purple", "small", 0.84, 0.79, 0.21, 4),
            ),
        ),
        ("How many circles are there?", "What is in this picture?", "Where is the star?", "Is there a red square?"),
    ),
    "pair.jpg": (
        Scene(
            600, 300,
            (
                _thing("square", "orange", "large", 0.22, 0.5, 0.36, 8),
                _thing("star", "white", "small", 0.78, 0.5, 0.22, -6),
            ),
        ),
        ("Describe the picture.", "What colour is the star?", "What is on the left?"),
    ),
    "digit.png": (
        Scene(320, 320, (_thing("7", "blue", "large", 0.5, 0.5, 0.6, 4),)),
        ("What digit is it?", "What colour is the digit?"),
    ),
    "letter.png": (
        Scene(360, 300, (_thing("R", "red", "large", 0.5, 0.5, 0.62, -5),)),
        ("Which letter is this?", "Describe the picture."),
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m train.examples", description=__doc__)
    parser.add_argument("folder", type=Path, help="an exported model")
    parser.add_argument("output", type=Path, help="where to write the pictures")
    parser.add_argument("--seed", type=int, default=SEED, help="of the backgrounds and fonts")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    console = Console()
    replier = Replier(options.folder)
    for number, (name, (scene, questions)) in enumerate(EXAMPLES.items()):
        path = options.output / name
        draw(scene, np.random.default_rng([options.seed, number])).save(path)
        chats: list[list[dict[str, object]]] = [
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
            for question in questions
        ]
        replies = replier.reply([path.read_bytes()] * len(questions), chats)
        for question, reply in zip(questions, replies, strict=True):
            console.print(f"{name}: {question} → {reply}", markup=False)


if __name__ == "__main__":
    main()
