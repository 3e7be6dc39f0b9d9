"""Weights from mapped files onto a GPU, through a ring of pinned buffers: one is filled while others cross.

A copy from memory that is not pinned is staged by the driver, and nobody reads the file meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Final, Protocol

import torch
from torch import Tensor

BUFFER_BYTES: Final = 32 << 20
NUM_BUFFERS: Final = 4

Copy = Callable[[Tensor, Tensor], object]
"""Of a place in memory, and what is to stand there."""


class Crossing(Protocol):
    """Of one buffer; a `torch.cuda.Event`."""

    def record(self) -> None:
        """Note what has been asked of the device so far."""

    def synchronize(self) -> None:
        """Wait until that is done."""


class Ring:
    """Buffers of bytes, each with its crossing. Copies are asked for, not awaited: the device does them in order."""

    def __init__(self, buffers: Sequence[tuple[Tensor, Crossing]]) -> None:
        self._size_bytes = min(buffer.nbytes for buffer, _ in buffers)
        self._buffers = cycle(buffers)

    def copy(self, place: Tensor, stored: Tensor) -> None:
        """Put what is stored into its place. Shapes: equal; types may differ, and the place is in one piece."""
        targets, values = place.view(-1), stored.reshape(-1)
        count = self._size_bytes // stored.itemsize
        for target, piece in zip(torch.split(targets, count), torch.split(values, count), strict=True):
            buffer, crossing = next(self._buffers)
            crossing.synchronize()  # whoever had the buffer before has crossed
            staged = buffer[: piece.nbytes].view(piece.dtype)
            staged.copy_(piece)
            target.copy_(staged, non_blocking=True)
            crossing.record()


def copy_to(device: torch.device) -> Copy:
    """The best way to put weights there."""
    if device.type != "cuda":
        return Tensor.copy_
    with torch.cuda.device(device):
        pinned = [torch.empty(BUFFER_BYTES, dtype=torch.uint8, pin_memory=True) for _ in range(NUM_BUFFERS)]
    ring = Ring([(buffer, torch.cuda.Event()) for buffer in pinned])  # type: ignore[no-untyped-call]

    def copy(place: Tensor, stored: Tensor) -> None:
        with torch.cuda.device(device):  # a crossing is noted on the current device, which each thread has of its own
            ring.copy(place, stored)

    return copy
