"""Holds a forward pass back where weights are still to come: one thread puts them in place, another computes.

Every stage of the model waits for its own weights; the last norm waits until all is said to be right, so that nothing
is ever sampled from weights that nobody has vouched for.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final

from torch import nn

from lavatube.model.llava import Llava

WAIT_S: Final = 1.0


class Gate:
    """Shut in the beginning, open for good in the end; in between it lets pass what can be computed."""

    def __init__(
        self,
        model: Llava,
        sizes: Mapping[str, int],
        on_pass: Callable[[str, float, float], None] = lambda path, came_s, passed_s: None,
    ) -> None:
        """`sizes` names the weights in the order in which they will come, with their bytes.

        `on_pass` hears when a stage was come to, and when it was let in.
        """
        self._on_pass = on_pass
        self.num_waits = 0
        """Grows while a pass is held: whoever looks for a hang sees that it only waits."""
        self._arrived_bytes: float = 0
        self._changed = threading.Condition()
        self._hooks = [
            stage.register_forward_pre_hook(partial(self._hold, path, _needed_bytes(path, sizes)))
            for path, stage in _stages(model)
        ]
        self._hooks.append(model.language.norm.register_forward_pre_hook(partial(self._hold, "verified", math.inf)))

    def advance(self, arrived_bytes: float) -> None:
        """So many bytes of weights are in place."""
        with self._changed:
            self._arrived_bytes = arrived_bytes
            self._changed.notify_all()

    def open(self) -> None:
        """Everything is in place, and right."""
        self.advance(math.inf)
        for hook in self._hooks:
            hook.remove()

    def _hold(self, path: str, needed_bytes: float, stage: nn.Module, inputs: object) -> None:
        came_s = time.monotonic()
        with self._changed:
            while not self._changed.wait_for(lambda: self._arrived_bytes >= needed_bytes, WAIT_S):
                self.num_waits += 1
        self._on_pass(path, came_s, time.monotonic())


def _stages(model: Llava) -> Iterator[tuple[str, nn.Module]]:
    """What runs one after the other, by its path. What belongs to no stage comes before all of them."""
    for part in ("vision", "language"):
        for name, module in model.get_submodule(part).named_children():
            if isinstance(module, nn.ModuleList):
                yield from ((f"{part}.{name}.{index}", layer) for index, layer in enumerate(module))
            else:
                yield f"{part}.{name}", module
    yield "projector", model.projector


def _needed_bytes(path: str, sizes: Mapping[str, int]) -> int:
    """Bytes up to the last weight of a stage."""
    sum_bytes = needed_bytes = 0
    for name, size_bytes in sizes.items():
        sum_bytes += size_bytes
        if name.startswith(f"{path}."):
            needed_bytes = sum_bytes
    return needed_bytes
