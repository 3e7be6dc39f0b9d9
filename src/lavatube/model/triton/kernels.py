"""All of them, each by the key of the operation whose twin it is in `Fused.operations`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from lavatube.model.triton import attention, e4m3, product, rows

KERNELS: Final[dict[str, Callable[..., Any]]] = {
    "attend": attention.attend,
    "normalize": rows.normalize,
    "rotate_and_store": rows.rotate_and_store,
    "swiglu": rows.swiglu,
    "multiply": product.multiply,
    "multiply_rounded": e4m3.multiply,
}
