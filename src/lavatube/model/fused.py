"""The operations of a decoder that have kernels for GPUs: until those have proved themselves on the device, torch's.

Knows no weights. Kernels are compiled when they are proved, which takes seconds: never on the way to a first token.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from lavatube.model import twins
from lavatube.model.examples import Examples
from lavatube.model.operation import Operation
from lavatube.model.panels import Multiply, Panels, Products

logger = logging.getLogger(__name__)


class Fused:
    """All of them, of one model."""

    def __init__(self) -> None:
        self.attend = Operation("attention of single rows", twins.attend)
        self.normalize = Operation("norm", twins.normalize)
        self.rotate_and_store = Operation("rotary embedding", twins.rotate_and_store)
        self.swiglu = Operation("SwiGLU", twins.swiglu)
        exact: Multiply = Operation("product with quantised weights", Panels.by_torch)
        rounded: Multiply = Operation("product with fp8 weights and rows", Panels.by_torch_rounded)
        self.products = Products(exact, rounded)
        self.is_settled = False
        """Whether it is decided who does what."""

    @property
    def operations(self) -> list[Operation[..., Any]]:
        return [self.attend, self.normalize, self.rotate_and_store, self.swiglu, *self.products]

    @torch.inference_mode()
    def prove(self, examples: Examples) -> None:
        """Compile each kernel and compare it with torch, on examples of the model's shapes."""
        try:
            from lavatube.model.triton import attention, e4m3, product, rows  # they import Triton, which no CPU needs
        except ImportError as error:
            logger.warning("no kernels for the GPU, torch does all of it, slower: %s", error)
        else:
            self.attend.prove(attention.attend, examples.attend())
            self.normalize.prove(rows.normalize, examples.normalize())
            self.rotate_and_store.prove(rows.rotate_and_store, examples.rotate_and_store())
            self.swiglu.prove(rows.swiglu, examples.swiglu())
            self.products.exact.prove(product.multiply, examples.multiply())
            if has_e4m3(examples.device):
                self.products.rounded.prove(e4m3.multiply, examples.multiply_rounded())
        self.is_settled = True


def has_e4m3(device: torch.device) -> bool:
    """Whether it multiplies such numbers; an interpreter does."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 9)
