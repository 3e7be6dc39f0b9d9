"""Keeps shards of drawn pictures with their truth on disk, drawn ahead by one worker process.

A shard is a function of the seed and its number, so a run may stop and go on. What is kept is what the model reads at
serve time: a picture that went through PNG or JPEG bytes and through the plain resize of the preprocessor.
"""

import io
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from train.draw import draw, encode
from train.scene import COLOURS, KINDS, MAX_THINGS, SIZES, Scene, Thing, sample_scene

IMAGE_SIZE = 96
SHARD_PICTURES = 2048
KIND, COLOUR, SIZE, X, Y, HALF_WIDTH, HALF_HEIGHT = range(7)


@dataclass(frozen=True, slots=True)
class Shard:
    """Pictures and truths.

    Shapes: pixels (n, 96, 96, 3) uint8; things (n, 6, 7) float32, kind -1 where there is none.
    Units: the columns of things are KIND, COLOUR, SIZE (indices), X, Y, HALF_WIDTH, HALF_HEIGHT (fractions of the
    sides).
    """

    pixels: np.ndarray
    things: np.ndarray


def shrink(picture: Image.Image) -> np.ndarray:
    """Resize the whole picture as the preprocessor does. Shapes: out (96, 96, 3) uint8."""
    return np.asarray(picture.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))


def tabulate(scene: Scene) -> np.ndarray:
    """Write a scene's truth as numbers. Shapes: out (6, 7) float32."""
    table = np.full((MAX_THINGS, 7), -1, dtype=np.float32)
    mean = (scene.width * scene.height) ** 0.5
    for row, thing in zip(table, scene.things, strict=False):
        half = thing.diameter * mean / 2
        row[:] = (
            KINDS.index(thing.kind), COLOURS.index(thing.colour), SIZES.index(thing.size), thing.x, thing.y,
            half / scene.width, half / scene.height,
        )  # fmt: skip
    return table


def untabulate(table: np.ndarray) -> tuple[Thing, ...]:
    """Read back what the words need of a scene: kinds, colours, sizes and places. Shapes: (6, 7)."""
    return tuple(
        Thing(
            KINDS[int(row[KIND])], COLOURS[int(row[COLOUR])], SIZES[int(row[SIZE])], float(row[X]), float(row[Y]),
            0.0, (0, 0, 0), 0.0, 1.0,
        )
        for row in table
        if row[KIND] >= 0
    )  # fmt: skip


def draw_shard(seed: int, number: int, num_pictures: int) -> Shard:
    """Draw one shard; the same seed and number give the same pictures."""
    random = np.random.default_rng([seed, number])
    pixels = np.empty((num_pictures, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    things = np.empty((num_pictures, MAX_THINGS, 7), dtype=np.float32)
    for index in range(num_pictures):
        scene = sample_scene(random)
        data = encode(draw(scene, random), random)
        pixels[index] = shrink(Image.open(io.BytesIO(data)))
        things[index] = tabulate(scene)
    return Shard(pixels, things)


class Pool:
    """The shards of one seed, in a folder; shard k of a pass is waited for, not skipped, so that order is fixed."""

    def __init__(self, folder: Path, seed: int, num_shards: int) -> None:
        self._folder, self._seed, self.num_shards = folder, seed, num_shards
        self._cache: dict[int, Shard] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def start_drawing(self) -> multiprocessing.Process:
        """Draw the missing shards in a background process, which ends with this one or a shard later."""
        worker = multiprocessing.Process(target=self.draw_missing, daemon=True)
        worker.start()
        return worker

    def draw_missing(self) -> None:
        """Draw every shard that is not on disk yet; in a worker, as long as the process that started it lives."""
        parent = multiprocessing.parent_process()
        for number in range(self.num_shards):
            if parent is not None and not parent.is_alive():
                return  # it was killed, and could not end this one
            path = self._path(number)
            if path.exists():
                continue
            shard = draw_shard(self._seed, number, SHARD_PICTURES)
            partial = path.with_suffix(f".{os.getpid()}.npz")
            np.savez(partial, pixels=shard.pixels, things=shard.things)
            partial.rename(path)

    def get(self, number: int) -> Shard:
        """Return a shard, waiting until it is drawn."""
        if number not in self._cache:
            path = self._path(number)
            while not path.exists():
                time.sleep(0.2)
            with np.load(path) as file:
                self._cache[number] = Shard(file["pixels"], file["things"])
        return self._cache[number]

    def batches(self, batch_size: int, first_step: int = 0, share: float = 1.0) -> Iterator[tuple[int, Shard]]:
        """Yield numbered batches for ever, each pass in a new order; starting later gives the same batches.

        A share below one leaves pictures of a single thing out: they are learned first.
        """
        num_used = round(SHARD_PICTURES * share)
        per_shard = num_used // batch_size
        step = first_step
        while True:
            turn, place = divmod(step, per_shard)
            shard = self.get(turn % self.num_shards)
            random = np.random.default_rng([self._seed, turn])
            order = random.permutation(SHARD_PICTURES)
            is_single = shard.things[order, 1, KIND] < 0
            order = random.permutation(order[np.argsort(is_single, kind="stable")][:num_used])
            while place < per_shard:
                chosen = order[place * batch_size : (place + 1) * batch_size]
                yield step, Shard(shard.pixels[chosen], shard.things[chosen])
                place, step = place + 1, step + 1

    def _path(self, number: int) -> Path:
        return self._folder / f"shard-{self._seed}-{number:03d}.npz"
