"""The perceptron that turns image features into embeddings of the language model; of one layer, a linear map."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from lavatube.model.linear import Linear
from lavatube.spec import ModelSpec


class Projector(nn.Module):
    """Shapes: in (…, feature size), out (…, hidden)."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        projector, features, hidden_size = spec.projector, spec.vision.feature_size, spec.language.hidden_size
        self.norm = nn.LayerNorm(features, eps=projector.norm_eps) if projector.has_norm else None
        self.num_layers = projector.num_layers
        for number in range(1, self.num_layers + 1):  # by the names that the files have
            inputs = features if number == 1 else hidden_size
            self.add_module(f"linear_{number}", Linear(inputs, hidden_size, bias=projector.has_bias))

    def forward(self, features: Tensor) -> Tensor:
        hidden = features if self.norm is None else self.norm(features)
        for number in range(1, self.num_layers + 1):
            linear = self.get_submodule(f"linear_{number}")
            hidden = linear(hidden if number == 1 else functional.gelu(hidden))
        return hidden
