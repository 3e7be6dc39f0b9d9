"""Weights that go through a ring of buffers arrive whole, though each buffer is used again and again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from lavatube.model.ring import BUFFER_BYTES, Ring, copy_to

SIZE_BYTES = 64


class LateCrossing:
    """Of a slow device: what a buffer was to put into its place is there only when somebody has waited for it."""

    def __init__(self, buffer: Tensor, place: Tensor, pieces: Iterator[Tensor]) -> None:
        self._values, self._place, self._pieces = buffer.view(place.dtype), place, pieces
        self._under_way = torch.tensor([], dtype=torch.int64)

    def record(self) -> None:
        self._under_way = next(self._pieces)
        self._place[self._under_way] = torch.nan

    def synchronize(self) -> None:
        """It takes what is in the buffer by now."""
        self._place[self._under_way] = self._values[: len(self._under_way)]


def test_no_buffer_is_filled_before_it_has_crossed() -> None:
    stored = torch.arange(100, dtype=torch.float32)  # seven buffers' worth, the last not full
    place = torch.full_like(stored, torch.nan)
    pieces = iter(torch.split(torch.arange(100), SIZE_BYTES // stored.itemsize))
    buffers = [torch.empty(SIZE_BYTES, dtype=torch.uint8) for _ in range(3)]
    crossings = [LateCrossing(buffer, place, pieces) for buffer in buffers]
    Ring(list(zip(buffers, crossings, strict=True))).copy(place, stored)
    assert place.isnan().any()
    for crossing in crossings:
        crossing.synchronize()
    assert torch.equal(place, stored)


class NoCrossing:
    def record(self) -> None: ...

    def synchronize(self) -> None: ...


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (32,), (33,), (7, 9)])
def test_types_are_converted_and_sizes_need_not_fit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    stored = torch.randn(shape).to(dtype)
    place = torch.full(shape, torch.nan, dtype=torch.bfloat16)
    Ring([(torch.empty(SIZE_BYTES, dtype=torch.uint8), NoCrossing())]).copy(place, stored)
    assert torch.equal(place, stored.to(torch.bfloat16))


def test_rows_that_do_not_lie_in_order() -> None:
    stored, place = torch.randn(9, 5).T, torch.empty(5, 9)
    Ring([(torch.empty(SIZE_BYTES, dtype=torch.uint8), NoCrossing())]).copy(place, stored)
    assert torch.equal(place, stored)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_what_arrives_is_what_was_stored() -> None:
    device = torch.device("cuda")
    copy, stored = copy_to(device), torch.randn(BUFFER_BYTES // 4 * 7 + 13, dtype=torch.float32)
    place = torch.empty_like(stored, device=device)
    copy(place, stored)
    assert torch.equal(place.cpu(), stored)
