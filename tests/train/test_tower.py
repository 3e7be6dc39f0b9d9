"""The start of the tower: each head looks at its neighbour before any training."""

import numpy as np
import torch
from transformers import CLIPVisionModel

from train.dense import DenseHead, dense_loss, label, score
from train.pool import draw_shard
from train.scene import MAX_THINGS
from train.tower import GRID, REACH, normalise, place_features, start_as_convolution, turn_matrix, vision_config


def test_turned_features_are_those_of_the_neighbour() -> None:
    features = place_features().view(GRID, GRID, -1)
    turned = features @ turn_matrix(2, -1).T
    assert torch.allclose(turned[5, 3], features[4, 5], atol=1e-5)


def test_heads_start_on_their_neighbours() -> None:
    torch.manual_seed(0)
    tower = CLIPVisionModel(vision_config())
    shard = draw_shard(3, 0, num_pictures=8)
    reached = start_as_convolution(tower, normalise(torch.from_numpy(shard.pixels)))
    assert len(reached) == len(REACH)
    assert min(reached) > 0.6


def test_labels_put_each_centre_in_its_patch() -> None:
    shard = draw_shard(3, 1, num_pictures=16)
    labels = label(shard.things)
    assert labels.is_centre.sum().item() == (shard.things[:, :, 0] >= 0).sum()
    first = shard.things[0, 0]
    patch = int(first[4] * GRID) * GRID + int(first[3] * GRID)
    assert labels.kind[0, patch].item() == first[0]
    middle = np.array([patch % GRID + 0.5, patch // GRID + 0.5])
    assert np.allclose(labels.places[0, patch].numpy(), first[3:5] * GRID - middle, atol=1e-4)


def test_perfect_claims_score_one() -> None:
    labels = label(draw_shard(3, 1, num_pictures=16).things)
    sizes = DenseHead.SPLITS
    truths = (labels.kind, labels.colour, None, labels.size, labels.column, labels.row)
    claims = [
        torch.where(labels.is_centre, 20.0, -20.0)[..., None]
        if truth is None
        else 20.0 * torch.nn.functional.one_hot(truth.clamp(min=0), size).float()
        for truth, size in zip(truths, sizes, strict=False)
    ]
    standing = 20.0 * torch.nn.functional.one_hot(labels.standing.clamp(min=0), MAX_THINGS).float().flatten(2)
    scores = score((*claims, labels.places, standing), labels)
    assert {name: value for name, value in scores.items() if name != "off"} == dict.fromkeys(
        ("shape", "digit", "letter", "colour", "size", "place", "count", "standing"), 1.0
    )
    assert dense_loss((*claims, labels.places, standing), labels).item() < 0.01


def test_standing_counts_what_comes_before_in_reading_order_and_what_there_is() -> None:
    # A red circle, below it on the same row of patches a red star and a blue star, right to left.
    things = np.full((1, MAX_THINGS, 7), -1, dtype=np.float32)
    for slot, (kind, colour, x, y) in enumerate(((0, 0, 0.5, 0.2), (3, 0, 0.7, 0.8), (3, 2, 0.3, 0.81))):
        things[0, slot] = (kind, colour, 0, x, y, 0.1, 0.1)
    labels = label(things)
    standing = {
        (int(kind), int(colour)): row.tolist()
        for kind, colour, row in zip(
            labels.kind[labels.is_centre],
            labels.colour[labels.is_centre],
            labels.standing[labels.is_centre],
            strict=True,
        )
    }
    # Among all, of its colour, of its kind, of both: how many before, how many others.
    assert standing == {
        (0, 0): [0, 2, 0, 1, 0, 0, 0, 0],
        (3, 0): [2, 2, 1, 1, 1, 1, 0, 0],
        (3, 2): [1, 2, 0, 0, 0, 1, 0, 0],
    }
