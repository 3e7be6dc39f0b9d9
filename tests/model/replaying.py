"""A decode step recorded without a GPU: what repeats it computes it again, and puts the results where they were."""

from __future__ import annotations

from collections.abc import Callable

from lavatube.model.llava import Llava
from lavatube.model.replay import Decoded


class Recorder:
    """Counts what is recorded and what is replayed."""

    def __init__(self) -> None:
        self.num_recorded = self.num_repeated = 0

    def __call__(self, step: Callable[[], Decoded]) -> tuple[Callable[[], object], Decoded]:
        self.num_recorded += 1
        results = step()

        def repeat() -> None:
            self.num_repeated += 1
            for held, computed in zip(results, step(), strict=True):
                held.copy_(computed)

        return repeat, results


def take_twins(model: Llava) -> Llava:
    """Let the definitions in torch stand in for the kernels."""
    for operation in model.fused.operations.values():
        operation.prove(operation.twin, [])
    model.fused.is_settled = True
    return model
