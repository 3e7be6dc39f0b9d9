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
        self._attend = library.lavatube_attend
        self._attend.argtypes = [
            *[_INT] * 2, *[_POINTER] * 3, *[_LONG] * 3, *[_POINTER] * 3, _LONG, _POINTER, *[_LONG] * 2, *[_POINTER] * 3,
            *[_LONG] * 5,
        ]  # fmt: skip
        self._attend_all = library.lavatube_attend_all
        self._attend_all.argtypes = [*[_INT] * 2, *[_POINTER] * 3, _LONG, _POINTER, *[_LONG] * 4]

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

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        slots: Tensor,
        block_size: int,
        starts: Tensor,
        lengths: Tensor,
        tables: Tensor,
        window: int,
    ) -> Tensor:
        """Attention of the sequences of a step, bfloat16; `model.attention.Layout` says what is what.

        Shapes: query (T, heads, head_dim), key and value (T, kv_heads, head_dim), of any stride from row to row; keys
        and values (kv_heads, slots, head_dim), which get the new ones; the others contiguous int64. Out as query.
        """
        out = torch.empty(query.shape, dtype=query.dtype)
        failed = self._attend(
            self.level,
            torch.get_num_threads(),
            *(rows.data_ptr() for rows in (query, key, value)),
            *(_row_stride(rows) for rows in (query, key, value)),
            out.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            keys.shape[1],
            slots.data_ptr(),
            block_size,
            len(lengths),
            starts.data_ptr(),
            lengths.data_ptr(),
            tables.data_ptr(),
            tables.shape[1],
            query.shape[1],
            *key.shape[1:],
            window,
        )
        if failed:
            raise MemoryError("no memory for attention")
        return out

    def attend_all(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention in which every row sees all, bfloat16. Shapes: in and out (N, rows, heads, head_dim)."""
        out = torch.empty(query.shape, dtype=query.dtype)
        strides = {_row_stride(rows.flatten(0, 1)) for rows in (query, key, value)}
        assert len(strides) == 1
        failed = self._attend_all(
            self.level,
            torch.get_num_threads(),
            *(rows.data_ptr() for rows in (query, key, value)),
            *strides,
            out.data_ptr(),
            *query.shape,
        )
        if failed:
            raise MemoryError("no memory for attention")
        return out


def _row_stride(rows: Tensor) -> int:
    """Of (rows, heads, head_dim), heads side by side."""
    assert rows.stride()[1:] == (rows.shape[2], 1)
    return rows.stride(0)


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
