"""A model on the meta device in, one whose weights have their places in memory out, and what a file's tensors fill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lavatube.model.linear import Linear, Table
from lavatube.model.llava import Llava
from lavatube.model.native import native
from lavatube.model.panels import Kind, Panels
from lavatube.model.ring import Copy
from lavatube.spec import Quantize


@dataclass(frozen=True, slots=True)
class Place:
    """Where one tensor of a file goes; `values` is what then stands there, unless it is converted on the way."""

    shape: torch.Size
    size_bytes: int
    put: Callable[[Tensor], object]
    values: Tensor | None = None

    @classmethod
    def of(cls, values: Tensor, copy: Copy) -> Place:
        return cls(values.shape, values.nbytes, partial(copy, values), values)


def allocate(model: Llava, device: torch.device, dtype: torch.dtype, quantize: Quantize = "none") -> None:
    """Give the weights of a model on the meta device their memory, but no values yet."""
    for path, module in list(model.named_modules()):
        kind = _kind(path, module, model, device, dtype, quantize)
        if kind is not None:
            assert isinstance(module, Linear)
            module.pack(kind, device, model.fused.products)
    weights = {  # not `empty_like`: of the meta device it imports sympy, a third of a second of a start
        name: torch.empty(weight.shape, dtype=dtype, device=device) if weight.is_meta else weight
        for name, weight in model.state_dict().items()
    }
    model.requires_grad_(False).eval().load_state_dict(weights, assign=True)
    model.to(device)  # the constants: they were never on the meta device, and keep their precision


def places(model: Llava, copy: Copy = Tensor.copy_) -> Iterator[tuple[str, Place]]:
    """By name, in the order of execution: weights, or their parts of merged ones.

    `copy` puts there what is not converted to panels, and brings to another device what is converted on it.
    """
    for path, module in model.named_modules():
        if isinstance(module, Linear):
            yield from _places_of_linear(path, module, copy)
        elif not isinstance(module, Panels):
            for kind, weight in module.named_parameters(recurse=False):
                yield f"{path}.{kind}" if path else kind, Place.of(weight, copy)


def _places_of_linear(path: str, linear: Linear, copy: Copy) -> Iterator[tuple[str, Place]]:
    first = 0
    for part, count in linear.parts.items():
        name, end = f"{path.rpartition('.')[0]}.{part}" if part else path, first + count
        if linear.panels is None:
            assert linear.weight is not None
            yield f"{name}.weight", Place.of(linear.weight[first:end], copy)
        else:
            whole, outputs = linear.panels.size_bytes, linear.outputs
            size_bytes = whole * end // outputs - whole * first // outputs
            shape = torch.Size((count, linear.inputs))
            bring = None if linear.panels.weight.device.type == "cpu" else copy
            yield f"{name}.weight", Place(shape, size_bytes, partial(linear.panels.put, first, copy=bring))
        if linear.bias is not None:
            yield f"{name}.bias", Place.of(linear.bias[first:end], copy)
        first = end


def _kind(
    path: str, module: object, model: Llava, device: torch.device, dtype: torch.dtype, quantize: Quantize
) -> Kind | None:
    """What panels a linear map's weights are kept in; None for one tensor, which is all that a table needs."""
    if not isinstance(module, Linear) or (isinstance(module, Table) and model.head is not None):
        return None
    if quantize == "none":
        has_kernels = device.type == "cpu" and dtype == torch.bfloat16 and native() is not None
        return "bfloat16" if has_kernels else None
    # The tower's features and the head's scores suffer more from four bits than speed would gain.
    return "int8" if quantize == "int4" and not path.startswith("language.layers.") else quantize
