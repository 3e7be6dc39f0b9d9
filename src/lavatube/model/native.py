"""The compiled kernels of `native/`, for tensors on a CPU, where a compiler was there at installation.

Products with panels, attention, what stands between them, and all of that together as layers.
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from itertools import chain
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

LEVELS: Final = ("any processor", "AVX2", "AVX-512 with bfloat16 and VNNI")
_POINTER, _INT, _LONG, _FLOAT = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float


class Map(ctypes.Structure):
    """A linear map whose weights lie in panels; `native/product.h` has their layout. Points into tensors of others."""

    _fields_ = (
        *((name, _POINTER) for name in ("weights", "scales", "bias")),
        *((name, _LONG) for name in ("kind", "inputs", "outputs", "steps", "group_steps")),
    )


class Heads(ctypes.Structure):
    """How many there are of queries and of keys, and the dimensions of one."""

    _fields_ = (("query", _LONG), ("key", _LONG), ("size", _LONG))


class Context(ctypes.Structure):
    """A layer's keys and values, and where the sequences of a step stand: see `native/stages.h`."""

    _fields_ = (
        *((name, _POINTER) for name in ("keys", "values", "slots", "starts", "lengths", "tables")),
        *((name, _LONG) for name in ("num_slots", "block_size", "sequences", "table_blocks", "window")),
        ("layer_stride", _LONG),
    )


class Layer(ctypes.Structure):
    """A layer of a decoder: see `native/layer.h`. Points into tensors of others."""

    _fields_ = (
        *((name, Map) for name in ("qkv", "out", "gate_up", "down")),
        *((name, _POINTER) for name in ("attention_norm", "perceptron_norm")),
        ("heads", Heads),
        ("epsilon", _FLOAT),
    )


class Native:
    """The library, and which of the instruction sets that it has kernels for is used: an index of LEVELS."""

    def __init__(self, library: ctypes.CDLL, level: int) -> None:
        self.level = level
        self._product = library.lavatube_product
        self._product.argtypes = [*[_INT] * 2, *[_POINTER] * 3, _LONG, *[_INT] * 2]
        self._fill = library.lavatube_fill
        self._fill.argtypes = [*[_INT] * 3, *[_POINTER] * 3, *[_LONG] * 5, _INT]
        self._attend = library.lavatube_attend
        self._attend.argtypes = [*[_INT] * 2, *[_POINTER] * 2, *(_POINTER, _LONG) * 3, _POINTER]
        self._attend_all = library.lavatube_attend_all
        self._attend_all.argtypes = [*[_INT] * 2, *[_POINTER] * 3, _LONG, _POINTER, *[_LONG] * 4]
        self._normalize = library.lavatube_normalize
        self._normalize.argtypes = [*[_INT] * 2, *[_POINTER] * 2, _FLOAT, _POINTER, *[_LONG] * 2]
        self._gate = library.lavatube_gate
        self._gate.argtypes = [*[_INT] * 2, _POINTER, _INT, *[_FLOAT] * 2, _POINTER, *[_LONG] * 2]
        self._rotate = library.lavatube_rotate
        self._rotate.argtypes = [*[_INT] * 2, _POINTER, _LONG, *[_POINTER] * 2, *[_LONG] * 3]
        self._find_largest = library.lavatube_find_largest
        self._find_largest.argtypes = [_INT, _POINTER, *[_LONG] * 2, *[_POINTER] * 2]
        self._nucleus = library.lavatube_nucleus
        self._nucleus.argtypes = [_INT, *[_POINTER] * 2, *[_LONG] * 2, *[_POINTER] * 2]
        self._layers = library.lavatube_layers
        self._layers.argtypes = [*[_INT] * 2, _POINTER, _LONG, *[_POINTER] * 5]

    @property
    def has_vectors(self) -> bool:
        """Whether they compute in bfloat16 as quickly as a processor can in float32, or more so."""
        return self.level > 0

    def product(self, hidden: Tensor, linear: Map, out: Tensor) -> None:
        """out = hidden · weightᵀ + bias, for contiguous tensors.

        Shapes: hidden (rows, inputs), float32 or bfloat16, as the bias; out (rows, outputs), either.
        """
        assert hidden.is_contiguous()
        failed = self._product(
            self.level,
            torch.get_num_threads(),
            ctypes.byref(linear),
            hidden.data_ptr(),
            out.data_ptr(),
            len(hidden),
            hidden.dtype == torch.bfloat16,
            out.dtype == torch.bfloat16,
        )
        if failed:
            raise MemoryError("no memory for the rows of a product")

    def layers(
        self, layers: ctypes.Array[Layer], context: Context, cosines: Tensor, sines: Tensor, hidden: Tensor
    ) -> Tensor:
        """All rows of a step through layers of a decoder, bfloat16; `context` is that of the first.

        Shapes: in and out (T, hidden), contiguous; cosines and sines (T, head_dim / 2) float32.
        """
        out = torch.empty_like(hidden)
        failed = self._layers(
            self.level,
            torch.get_num_threads(),
            ctypes.byref(layers),
            len(layers),
            ctypes.byref(context),
            *(rows.data_ptr() for rows in (cosines, sines, hidden, out)),
        )
        if failed:
            raise MemoryError("no memory for the rows of a layer")
        return out

    def fill(
        self, rows: Tensor, weight: Tensor, scales: Tensor | None, *, kind: int, first: int, words: int, group: int
    ) -> None:
        """Put the weights of the outputs from `first` on into panels. Shapes: rows (n, inputs) float32 or bfloat16."""
        assert rows.dtype in (torch.float32, torch.bfloat16)
        rows = rows.contiguous()
        failed = self._fill(
            self.level,
            torch.get_num_threads(),
            kind,
            rows.data_ptr(),
            weight.data_ptr(),
            None if scales is None else scales.data_ptr(),
            first,
            *rows.shape,
            words,
            group,
            rows.dtype == torch.bfloat16,
        )
        if failed:
            raise MemoryError("no memory to quantise with")

    def attend(self, query: Tensor, key: Tensor, value: Tensor, context: Context) -> Tensor:
        """Attention of the sequences of a step, bfloat16; the new keys and values are put into the cache.

        Shapes: query (T, heads, head_dim), key and value (T, kv_heads, head_dim), of any stride from row to row; out as
        query.
        """
        out = torch.empty(query.shape, dtype=query.dtype)
        heads = Heads(query.shape[1], *key.shape[1:])
        pointers = ((rows.data_ptr(), _row_stride(rows)) for rows in (query, key, value))
        failed = self._attend(
            self.level,
            torch.get_num_threads(),
            ctypes.byref(context),
            ctypes.byref(heads),
            *chain.from_iterable(pointers),
            out.data_ptr(),
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

    def normalize(self, hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """RMSNorm, bfloat16. Shapes: in and out (…, size)."""
        hidden = hidden.contiguous()
        out = torch.empty_like(hidden)
        size = len(weight)
        pointers = hidden.data_ptr(), weight.data_ptr()
        self._normalize(
            self.level, torch.get_num_threads(), *pointers, epsilon, out.data_ptr(), hidden.numel() // size, size
        )
        return out

    def gate(self, hidden: Tensor, linear: float, cubic: float, *, is_gated: bool) -> Tensor:
        """x · sigmoid(linear · x + cubic · x³), bfloat16; gated, times the other half of each row.

        Shapes: in (…, size), gated (…, 2 · size); out (…, size).
        """
        hidden = hidden.contiguous()
        size = hidden.shape[-1] // (2 if is_gated else 1)
        out = torch.empty(*hidden.shape[:-1], size, dtype=hidden.dtype)
        threads, rows = torch.get_num_threads(), out.numel() // size
        self._gate(self.level, threads, hidden.data_ptr(), is_gated, linear, cubic, out.data_ptr(), rows, size)
        return out

    def rotate(self, heads: Tensor, cosines: Tensor, sines: Tensor) -> None:
        """Rotary embedding, in place.

        Shapes: heads (T, heads, head_dim) bfloat16; cosines and sines (T, head_dim / 2) float32.
        """
        pointers = cosines.data_ptr(), sines.data_ptr()
        stride = _row_stride(heads)
        self._rotate(self.level, torch.get_num_threads(), heads.data_ptr(), stride, *pointers, *heads.shape)

    def find_largest(self, values: Tensor) -> tuple[list[int], list[bool]]:
        """The place of the first of the largest of each row, and whether the row is of numbers only.

        Where it is not, the place is any. Shapes: values (rows, size) float32, contiguous.
        """
        assert values.is_contiguous()
        places, are_finite = (_LONG * len(values))(), (ctypes.c_bool * len(values))()
        self._find_largest(self.level, values.data_ptr(), *values.shape, places, are_finite)
        return places[:], are_finite[:]

    def nucleus(self, scores: Tensor, floors: Tensor, shares: Tensor) -> Tensor:
        """The least score of each row that top-p keeps, of those that are not below the row's floor.

        Shapes: scores (rows, vocabulary), floors, shares and out (rows, 1); all float64.
        """
        scores, floors, shares = scores.contiguous(), floors.clone(), shares.contiguous()
        weights = scores.exp()
        pointers = scores.data_ptr(), weights.data_ptr()
        self._nucleus(torch.get_num_threads(), *pointers, *scores.shape, floors.data_ptr(), shares.data_ptr())
        return floors


def _row_stride(rows: Tensor) -> int:
    """Of (rows, heads, head_dim), heads side by side."""
    assert rows.stride()[1:] == (rows.shape[2], 1)
    return rows.stride(0)


def open_library() -> ctypes.CDLL | None:
    """None where it was not built, or this torch has no OpenMP: the library uses torch's, and so the same threads."""
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_native{suffix}")
        if path.is_file():
            try:
                return ctypes.CDLL(str(path))
            except OSError as error:
                logger.warning("the kernels can't be loaded: %s", error)
    return None


def kernels_for(tensor: Tensor) -> Native | None:
    """The kernels, for what is bfloat16 on a CPU."""
    return native() if tensor.dtype == torch.bfloat16 and tensor.device.type == "cpu" else None


@cache
def native() -> Native | None:
    """The best kernels for this processor; None, told once in the log, where there are none."""
    library = open_library()
    if library is None:
        logger.warning(
            "no kernels: the model runs on torch's own, slower; installation builds them with a C++ compiler"
        )
        return None
    try:
        return Native(library, library.lavatube_level())
    except AttributeError as error:
        logger.warning("the kernels are older than this program (%s): install it again, until then it is slower", error)
        return None
