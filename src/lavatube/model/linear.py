"""Linear maps that read the same input, merged into one matrix: fewer, larger products."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional


class MergedLinear(nn.Module):
    """`parts` names the maps, as a checkpoint's files have them, and says how many outputs each has."""

    def __init__(self, inputs: int, parts: Mapping[str, int], *, bias: bool) -> None:
        super().__init__()
        self.parts = dict(parts)
        num_outputs = sum(parts.values())
        self.weight = nn.Parameter(torch.empty(num_outputs, inputs))
        self.bias = nn.Parameter(torch.empty(num_outputs)) if bias else None

    def forward(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """Shapes: in (…, inputs); out (…, outputs) for each part, in order."""
        merged = functional.linear(hidden, self.weight, self.bias)
        return torch.split_with_sizes(merged, list(self.parts.values()), dim=-1)
