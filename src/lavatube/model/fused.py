"""The operations of a decoder that have kernels for GPUs: until those have proved themselves on the device, torch's.

Knows no weights. Kernels are compiled when they are proved, which takes seconds: never on the way to a first token.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from importlib import import_module
from typing import Any, Final

import torch

from lavatube.model import twins
from lavatube.model.examples import Examples
from lavatube.model.operation import Operation
from lavatube.model.panels import Multiply, Panels, Products

logger = logging.getLogger(__name__)

TRITON: Final = "lavatube.model.triton.kernels"
"""The module that has the kernels. It imports Triton, which no CPU needs."""

Kernels = dict[str, Callable[..., Any]]
"""By keys of `Fused.operations`."""


class Fused:
    """All of them, of one model."""

    def __init__(self) -> None:
        self.attend = Operation("attention of single rows", twins.attend)
        self.normalize = Operation("norm", twins.normalize)
        self.rotate_and_store = Operation("rotary embedding", twins.rotate_and_store)
        self.swiglu = Operation("SwiGLU", twins.swiglu)
        multiply: Multiply = Operation("product with quantised weights", Panels.by_torch)
        multiply_rounded: Multiply = Operation("product with fp8 weights and rows", Panels.by_torch_rounded)
        self.products = Products(multiply, multiply_rounded)
        self.is_settled = False
        """Whether it is decided who does what."""

    @property
    def operations(self) -> dict[str, Operation[..., Any]]:
        """By what `Examples` calls them."""
        return {
            "attend": self.attend,
            "normalize": self.normalize,
            "rotate_and_store": self.rotate_and_store,
            "swiglu": self.swiglu,
            "multiply": self.products.exact,
            "multiply_rounded": self.products.rounded,
        }

    @torch.inference_mode()
    def prove(self, examples: Examples, choose: Callable[[list[str]], Collection[str]] = list) -> None:
        """Compile the kernels whose keys are chosen of all there are, and compare each with torch on the examples."""
        try:
            kernels = kernels_for(examples.device)
        except ImportError as error:
            logger.warning("no kernels for the GPU, torch does all of it, slower: %s", error)
        else:
            for key in choose(list(kernels)):
                self.operations[key].prove(kernels[key], examples.of(key))
        self.is_settled = True


def kernels_for(device: torch.device, module: str = TRITON) -> Kernels:
    """Those that there can be on this device. Raises: ImportError where Triton is not installed."""
    kernels: Kernels = dict(import_module(module).KERNELS)
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        del kernels["multiply_rounded"]  # it has no tensor cores for e4m3
    return kernels
