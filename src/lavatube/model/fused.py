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
from lavatube.model.panels import Multiply, Panels

logger = logging.getLogger(__name__)


class Fused:
    """All of them, of one model."""

    def __init__(self) -> None:
        self.attend = Operation("attention of single rows", twins.attend)
        self.normalize = Operation("norm", twins.normalize)
        self.rotate_and_store = Operation("rotary embedding", twins.rotate_and_store)
        self.swiglu = Operation("SwiGLU", twins.swiglu)
        self.multiply: Multiply = Operation("product with quantised weights", Panels.by_torch)
        self.is_settled = False
        """Whether it is decided who does what."""

    @property
    def operations(self) -> list[Operation[..., Any]]:
        return [self.attend, self.normalize, self.rotate_and_store, self.swiglu, self.multiply]

    @torch.inference_mode()
    def prove(self, examples: Examples) -> None:
        """Compile each kernel and compare it with torch, on examples of the model's shapes."""
        try:
            from lavatube.model.triton import attention, product, rows  # they import Triton, which no CPU needs
        except ImportError as error:
            logger.warning("no kernels for the GPU, torch does all of it, slower: %s", error)
        else:
            self.attend.prove(attention.attend, examples.attend())
            self.normalize.prove(rows.normalize, examples.normalize())
            self.rotate_and_store.prove(rows.rotate_and_store, examples.rotate_and_store())
            self.swiglu.prove(rows.swiglu, examples.swiglu())
            self.multiply.prove(product.multiply, examples.multiply())
        self.is_settled = True
