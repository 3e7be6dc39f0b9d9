"""Products with panels by the compiled kernels of `native/`, where a compiler was there at installation."""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

LEVELS: Final = ("any processor", "AVX2", "AVX-512 with bfloat16 and VNNI")
_POINTER, _INT, _LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64


class Native:
    """The library, and which of the instruction sets that it has kernels for is used: an index of LEVELS."""

    def __init__(self, library: ctypes.CDLL, level: int) -> None:
        self.level = level
        self._product = library.lavatube_product
        self._product.argtypes = [*[_INT] * 3, *[_POINTER] * 5, *[_LONG] * 5, *[_INT] * 2]

    def product(
        self,
        hidden: Tensor,
        weight: Tensor,
        scales: Tensor | None,
        bias: Tensor | None,
        out: Tensor,
        *,
        kind: int,
        steps: int,
        group_steps: int,
    ) -> None:
        """out = hidden · weightᵀ + bias, for contiguous tensors; the layout is that of `native/product.h`.

        Shapes: hidden (rows, inputs) and bias (outputs,), both float32 or both bfloat16; out (rows, outputs), either.
        """
        assert hidden.is_contiguous()
        failed = self._product(
            self.level,
            torch.get_num_threads(),
            kind,
            weight.data_ptr(),
            None if scales is None else scales.data_ptr(),
            None if bias is None else bias.data_ptr(),
            hidden.data_ptr(),
            out.data_ptr(),
            *hidden.shape,
            out.shape[1],
            steps,
            group_steps,
            hidden.dtype == torch.bfloat16,
            out.dtype == torch.bfloat16,
        )
        if failed:
            raise MemoryError("no memory for the rows of a product")


def open_library() -> ctypes.CDLL | None:
    """None where it was not built. Linked to the OpenMP that torch has loaded, so both use the same threads."""
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_native{suffix}")
        if path.is_file():
            return ctypes.CDLL(str(path))
    return None


@cache
def native() -> Native | None:
    """The best kernels for this processor; None, told once in the log, where there are none."""
    library = open_library()
    if library is None:
        logger.warning("the kernels were not built (no compiler at installation): the model runs on torch's, slower")
        return None
    return Native(library, library.lavatube_level())
