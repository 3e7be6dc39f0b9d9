"""Memory for weights that are read through again and again, on a CPU: on huge pages where the system has them.

A token reads every page of the weights once. With small ones, finding out where they lie costs up to a tenth of that.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import sys
from typing import Final

import torch
from torch import Tensor

_HUGE: Final = 1 << 21


def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
    """As torch's, on the default device. What does not fill a huge page at the end lies on small ones."""
    size = math.prod(shape) * dtype.itemsize
    if sys.platform != "linux" or torch.get_default_device().type != "cpu" or size < _HUGE:
        return torch.zeros(*shape, dtype=dtype)
    memory = mmap.mmap(-1, size + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    start = -whole.data_ptr() % _HUGE
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE, start, size // _HUGE * _HUGE)
    return whole[start : start + size].view(dtype).view(shape)
