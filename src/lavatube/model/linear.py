"""Linear maps: as torch has them, or in panels. The model asks for a product; only here is known how it is made."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavatube.model.native import Map
from lavatube.model.panels import Kind, Panels, Products


class Linear(nn.Module):
    """hidden · weightᵀ + bias. The weights are either one tensor, as torch has it, or in panels.

    `parts` names the maps that a checkpoint's files have in its place, and says how many outputs each has.
    """

    weight: nn.Parameter | None

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, parts: Mapping[str, int] | None = None) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.parts = dict(parts or {"": outputs})
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.panels: Panels | None = None

    @property
    def size_bytes(self) -> int:
        return sum(parameter.nbytes for parameter in self.parameters())

    def pack(self, kind: Kind, device: torch.device, products: Products | None = None) -> None:
        """Have the weights in panels from now on; their values are still to come."""
        with device:
            self.panels = Panels(self.outputs, self.inputs, kind, products)
        self.weight = None

    def put(self, first: int, rows: Tensor) -> None:
        """The weights of the outputs from `first` on. Shapes: rows (n, inputs)."""
        if self.weight is None:
            self._panels.put(first, rows)
        else:
            self.weight[first : first + len(rows)] = rows

    def forward(self, hidden: Tensor) -> Tensor:
        """Shapes: in (…, inputs), out (…, outputs)."""
        return self.product(hidden, hidden.dtype)

    def product(self, hidden: Tensor, dtype: torch.dtype) -> Tensor:
        """What `forward` does, with the sums as `dtype`."""
        if self.weight is None:
            out: Tensor = self._panels(hidden, self.bias, dtype)
            return out
        return functional.linear(hidden, self.weight, self.bias).to(dtype)

    @property
    def has_map(self) -> bool:
        """Whether the kernels of a CPU read these weights."""
        return self.panels is not None and self.panels.has_map

    def map(self) -> Map:
        """For the kernels, of weights in panels."""
        return self._panels.map(self.bias)

    @property
    def _panels(self) -> Panels:
        assert self.panels is not None
        return self.panels


class MergedLinear(Linear):
    """Maps that read the same input, merged into one matrix: fewer, larger products."""

    def __init__(self, inputs: int, parts: Mapping[str, int], *, bias: bool) -> None:
        super().__init__(inputs, sum(parts.values()), bias=bias, parts=parts)

    def split(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """Shapes: in (…, inputs); out (…, outputs) for each part, in order."""
        return torch.split_with_sizes(self(hidden), list(self.parts.values()), dim=-1)


class Table(Linear):
    """Embeddings; where they are the head's weights too, `product` is the head."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__(width, size, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Shapes: in (T,), out (T, inputs)."""
        return functional.embedding(ids, self.weight) if self.weight is not None else self._panels.rows(ids)
