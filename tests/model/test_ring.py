"""Weights that go through a ring of buffers arrive whole, though each buffer is used again and again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lavatube.checkpoint.read import read_spec
from lavatube.model.llava import Llava
from lavatube.model.panels import Kind, Panels
from lavatube.model.places import allocate, places
from lavatube.model.ring import BUFFER_BYTES, Ring, copy_to
from lavatube.spec import Quantize
from tests.checkpoints import write_checkpoint

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


@pytest.mark.parametrize("kind", ["bfloat16", "int8", "int4", "fp8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_quantised_is_the_same_by_the_ring(kind: Kind, dtype: torch.dtype) -> None:
    stored = torch.randn(37, 50).to(dtype)
    plain, brought = Panels(37, 50, kind), Panels(37, 50, kind)
    plain.put(0, stored)
    ring = Ring([(torch.empty(SIZE_BYTES, dtype=torch.uint8), NoCrossing()) for _ in range(2)])
    for first in (0, 20):
        brought.put(first, stored[first : first + 20], ring.copy)
    assert torch.equal(brought.unpack(), plain.unpack())


@pytest.mark.parametrize("quantize", ["none", "int8", "int4", "fp8"])
def test_all_weights_go_to_another_device_by_the_ring(tmp_path: Path, quantize: Quantize) -> None:
    """To one without values, as there is no other here."""
    meta, brought = torch.device("meta"), [0]

    def copy(place: Tensor, stored: Tensor) -> None:
        assert (place.device, place.shape, stored.device.type) == (meta, stored.shape, "cpu")
        brought[0] += stored.numel()

    spec = read_spec(write_checkpoint(tmp_path))
    with meta:
        model = Llava(spec)
    allocate(model, meta, torch.bfloat16, quantize)
    wanted = 0
    for _, place in places(model, copy):
        place.put(torch.ones(place.shape))
        wanted += place.shape.numel()
    assert brought == [wanted]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_what_arrives_is_what_was_stored() -> None:
    device = torch.device("cuda", torch.cuda.device_count() - 1)  # where there are several, not the current one
    copy, stored = copy_to(device), torch.randn(BUFFER_BYTES // 4 * 7 + 13, dtype=torch.float32)
    place = torch.empty_like(stored, device=device)
    copy(place, stored)
    assert torch.equal(place.cpu(), stored)
