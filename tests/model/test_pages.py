"""Memory for weights, on whatever pages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from lavatube.model.pages import zeros


@pytest.mark.parametrize("shape", [(3, 5), (1 << 21, 1), (1000, 3, 1001)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16])
def test_it_is_zeros_and_one_s_own(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    ours, other = zeros(*shape, dtype=dtype), zeros(*shape, dtype=dtype)
    other.fill_(1)
    assert torch.equal(ours, torch.zeros(*shape, dtype=dtype))
    assert ours.is_contiguous()


def test_on_another_device_it_is_torch_s() -> None:
    with torch.device("meta"):
        assert zeros(1 << 22, dtype=torch.uint8).is_meta


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the memory is torch's own")
def test_it_is_given_back() -> None:
    before = resident_kib()
    held = zeros(1 << 28, dtype=torch.uint8).fill_(1)
    assert resident_kib() > before + (1 << 17)
    del held
    assert resident_kib() < before + (1 << 17)


def resident_kib() -> int:
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0])
