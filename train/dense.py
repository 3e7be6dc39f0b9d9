"""Teaches the tower patch by patch: what covers a patch, what has its centre in it, and how that thing stands among the
others. Only used in training.

A list is told in reading order, equal things together. So a centre also learns, among all things and among those of its
colour, of its kind and of both: how many come before it, and how many there are. The decoder then finds the next thing
to say by what it is, and need not sort.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from train.pool import COLOUR, HALF_HEIGHT, HALF_WIDTH, KIND, SIZE, X, Y
from train.scene import COLOURS, KINDS, MAX_THINGS, SHAPES
from train.tower import GRID, WIDTH

NOTHING = -100
STANDINGS = ("all", "colour", "kind", "both")


@dataclass(frozen=True, slots=True)
class DenseLabels:
    """Truth a patch.

    Shapes: all (n, GRID * GRID), places (n, GRID * GRID, 2).
    Units: kind and colour are indices, the last one where nothing covers the patch; size, column and row are NOTHING
    away from centres; places: patches, from the patch's middle to the centre of what covers it; standing: for each of
    STANDINGS, how many of them come before this thing and how many there are less one, (n, GRID * GRID, 8), NOTHING
    away from centres.
    """

    kind: Tensor
    colour: Tensor
    is_centre: Tensor
    size: Tensor
    column: Tensor
    row: Tensor
    places: Tensor
    standing: Tensor


class DenseHead(nn.Module):
    """Reads every claim from one patch's features with one matrix."""

    SPLITS = (len(KINDS) + 1, len(COLOURS) + 1, 1, 2, 3, 3, 2, 2 * len(STANDINGS) * MAX_THINGS)

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(WIDTH, sum(self.SPLITS))

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Shapes: features (n, patches, WIDTH); out one (n, patches, k) a claim, in the order of SPLITS."""
        return torch.split(self.read(features), self.SPLITS, dim=-1)


def label(things: np.ndarray) -> DenseLabels:
    """Work out the dense truth. Shapes: things (n, 6, 7)."""
    num_pictures = len(things)
    middles = (np.arange(GRID) + 0.5) / GRID
    kind = np.full((num_pictures, GRID, GRID), len(KINDS))
    colour = np.full((num_pictures, GRID, GRID), len(COLOURS))
    centre = np.zeros((num_pictures, GRID, GRID), dtype=bool)
    size, column, row = (np.full((num_pictures, GRID, GRID), NOTHING) for _ in range(3))
    places = np.zeros((num_pictures, GRID, GRID, 2), dtype=np.float32)
    standing = np.full((num_pictures, GRID, GRID, 2 * len(STANDINGS)), NOTHING)
    stands = _stand(things)
    for slot in range(things.shape[1]):
        thing = things[:, slot]
        exists = thing[:, KIND] >= 0
        across = (middles[None, None, :] - thing[:, X, None, None]) / thing[:, HALF_WIDTH, None, None]
        down = (middles[None, :, None] - thing[:, Y, None, None]) / thing[:, HALF_HEIGHT, None, None]
        covered = (across**2 + down**2 < 1) & exists[:, None, None]
        kind = np.where(covered, thing[:, KIND, None, None], kind)
        colour = np.where(covered, thing[:, COLOUR, None, None], colour)
        away = np.stack(np.broadcast_arrays(
            (thing[:, X, None, None] - middles[None, None, :]) * GRID,
            (thing[:, Y, None, None] - middles[None, :, None]) * GRID,
        ), axis=-1)  # fmt: skip
        places = np.where(covered[..., None], away, places)
    for slot in range(things.shape[1]):
        index = np.flatnonzero(things[:, slot, KIND] >= 0)
        thing = things[index, slot]
        at_row = (thing[:, Y] * GRID).astype(int).clip(0, GRID - 1)
        at_column = (thing[:, X] * GRID).astype(int).clip(0, GRID - 1)
        at = (index, at_row, at_column)
        centre[at] = True
        kind[at], colour[at], size[at] = thing[:, KIND], thing[:, COLOUR], thing[:, SIZE]
        column[at] = (thing[:, X] * 3).astype(int).clip(0, 2)
        row[at] = (thing[:, Y] * 3).astype(int).clip(0, 2)
        standing[at] = stands[index, slot]
        places[at] = np.stack([thing[:, X] * GRID - at_column - 0.5, thing[:, Y] * GRID - at_row - 0.5], axis=1)
    maps = (kind, colour, size, column, row)
    flat = [torch.from_numpy(part.reshape(num_pictures, -1).astype(np.int64)) for part in maps]
    return DenseLabels(
        flat[0], flat[1], torch.from_numpy(centre.reshape(num_pictures, -1)), flat[2], flat[3], flat[4],
        torch.from_numpy(places.reshape(num_pictures, -1, 2).astype(np.float32)),
        torch.from_numpy(standing.reshape(num_pictures, GRID * GRID, -1)),
    )  # fmt: skip


def _stand(things: np.ndarray) -> np.ndarray:
    """Count what comes before each thing in reading order, and what there is. Shapes: (n, 6, 7) to (n, 6, 8)."""
    exists = things[..., KIND] >= 0
    order = np.floor(things[..., Y] * GRID) * 10 + things[..., X]
    before = order[:, None, :] < order[:, :, None]
    same_colour = things[:, None, :, COLOUR] == things[:, :, None, COLOUR]
    same_kind = things[:, None, :, KIND] == things[:, :, None, KIND]
    counts = []
    for alike in (np.ones_like(before), same_colour, same_kind, same_colour & same_kind):
        chosen = alike & exists[:, None, :]
        counts += [(chosen & before).sum(axis=-1), chosen.sum(axis=-1) - 1]
    return np.stack(counts, axis=-1)


def dense_loss(claims: tuple[Tensor, ...], labels: DenseLabels) -> Tensor:
    """Weigh the claims into one number; centres count most, for the language model reads mainly those."""
    kind, colour, is_centre, size, column, row, places, standing = claims
    at = labels.is_centre
    loss = 0.5 * functional.cross_entropy(kind.flatten(0, 1), labels.kind.flatten())
    loss = loss + 0.3 * functional.cross_entropy(colour.flatten(0, 1), labels.colour.flatten())
    loss = loss + 8.0 * functional.binary_cross_entropy_with_logits(is_centre[..., 0], at.float())
    loss = loss + 1.0 * functional.cross_entropy(kind[at], labels.kind[at])
    loss = loss + 0.5 * functional.cross_entropy(colour[at], labels.colour[at])
    loss = loss + 0.3 * functional.cross_entropy(size[at], labels.size[at])
    loss = loss + 0.2 * functional.cross_entropy(column[at], labels.column[at])
    loss = loss + 0.2 * functional.cross_entropy(row[at], labels.row[at])
    loss = loss + 1.0 * functional.cross_entropy(_standing(standing[at]), labels.standing[at].flatten())
    is_covered = labels.kind != len(KINDS)
    loss = loss + 1.0 * functional.l1_loss(places[is_covered], labels.places[is_covered])
    return loss + 1.5 * functional.l1_loss(places[at], labels.places[at])


def score(claims: tuple[Tensor, ...], labels: DenseLabels) -> dict[str, float]:
    """Measure shares that are right, at the true centres, and of pictures where the centres add up."""
    kind, colour, is_centre, size, column, row, off, standing = claims
    at = labels.is_centre
    truth = labels.kind[at]
    right = kind[at].argmax(-1) == truth
    is_shape, is_digit = truth < len(SHAPES), (truth >= len(SHAPES)) & (truth < len(SHAPES) + 10)
    places = (column[at].argmax(-1) == labels.column[at]) & (row[at].argmax(-1) == labels.row[at])
    return {
        "shape": _mean(right[is_shape]),
        "digit": _mean(right[is_digit]),
        "letter": _mean(right[~is_shape & ~is_digit]),
        "colour": _mean(colour[at].argmax(-1) == labels.colour[at]),
        "size": _mean((size[at].argmax(-1) == labels.size[at])[is_shape]),
        "place": _mean(places),
        "count": _mean((is_centre[..., 0].sigmoid().sum(1) - at.sum(1)).abs() < 0.5),
        "off": float((off - labels.places)[at].abs().mean()),
        "standing": _mean(_standing(standing[at]).argmax(-1) == labels.standing[at].flatten()),
    }


def _standing(logits: Tensor) -> Tensor:
    """Set the claims about standing in rows. Shapes: (centres, 8 * 6) to (centres * 8, 6)."""
    return logits.reshape(-1, MAX_THINGS)


def _mean(right: Tensor) -> float:
    return float(right.float().mean())
