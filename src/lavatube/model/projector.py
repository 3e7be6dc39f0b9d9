"""The two-layer perceptron that turns image features into embeddings of the language model."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from lavatube.spec import ModelSpec


class Projector(nn.Module):
    """Shapes: in (…, vision width), out (…, hidden)."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        hidden_size, has_bias = spec.language.hidden_size, spec.projector.has_bias
        self.linear_1 = nn.Linear(spec.vision.hidden_size, hidden_size, bias=has_bias)
        self.linear_2 = nn.Linear(hidden_size, hidden_size, bias=has_bias)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.linear_2(functional.gelu(self.linear_1(features)))
        return out
