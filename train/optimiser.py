"""Chooses how each weight is trained: Muon for the matrices of transformer layers, AdamW for everything else."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import AdamW, Muon, Optimizer

WARM_UP_STEPS = 60
FLOOR = 0.03
MAX_NORM = 1.0
WEIGHT_DECAY = 0.02


class Optimisers:
    """Several optimisers that step together on one cosine schedule."""

    def __init__(self, groups: Sequence[tuple[Mapping[str, Parameter], float, float]]) -> None:
        """Each group is (weights by name, rate of its layer matrices, rate of its other weights)."""
        self._optimisers: list[tuple[Optimizer, float]] = []
        for weights, matrix_rate, other_rate in groups:
            matrices = [weight for name, weight in weights.items() if is_layer_matrix(name, weight)]
            others = [weight for name, weight in weights.items() if not is_layer_matrix(name, weight)]
            muon = Muon(
                matrices, lr=matrix_rate, weight_decay=WEIGHT_DECAY, momentum=0.95, adjust_lr_fn="match_rms_adamw"
            )
            adam = AdamW(others, lr=other_rate, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY, fused=True)
            self._optimisers += [(muon, matrix_rate), (adam, other_rate)]

    def step(self, progress: float, step: int) -> None:
        """Clip, move and forget the gradients. Units: progress: share of the stage that is done, 0..1."""
        factor = cosine(progress) * min(1.0, (step + 1) / WARM_UP_STEPS)
        for optimiser, rate in self._optimisers:
            torch.nn.utils.clip_grad_norm_(_weights(optimiser), MAX_NORM)
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def state(self) -> list[dict[str, object]]:
        return [optimiser.state_dict() for optimiser, _ in self._optimisers]

    def load(self, states: Sequence[dict[str, object]]) -> None:
        for (optimiser, _), state in zip(self._optimisers, states, strict=True):
            optimiser.load_state_dict(state)


def cosine(progress: float) -> float:
    """Fall from one to the floor along half a cosine."""
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def is_layer_matrix(name: str, weight: Tensor) -> bool:
    """Tell the matrices inside transformer layers from embeddings, norms, heads and the projector."""
    return weight.ndim == 2 and ".layers." in f".{name}"


def _weights(optimiser: Optimizer) -> Iterable[Tensor]:
    return [weight for group in optimiser.param_groups for weight in group["params"]]
