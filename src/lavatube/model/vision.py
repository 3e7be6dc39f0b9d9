"""The vision tower, CLIP or SigLIP: squares of uint8 pixels in, the hidden states that the checkpoint selects out.

Knows nothing of how an image became a square; only the blocks before the last selected state exist here.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lavatube.model.elementwise import ACTIVATIONS
from lavatube.model.linear import Linear, MergedLinear
from lavatube.model.native_attention import attend_all
from lavatube.spec import PixelSpec, VisionSpec


def normalized_levels(pixels: PixelSpec) -> Tensor:
    """What each of the 256 levels of a pixel becomes, by channel; rounded where the reference rounds, to the last bit.

    Shapes: out (3, 256) float32.
    Source: CLIPImageProcessor: rescaled in float64, stored as float32, then minus mean and divided by std in float32.
    """
    rescaled = (np.arange(256, dtype=np.float64) * pixels.rescale).astype(np.float32)
    mean, std = np.array(pixels.mean, dtype=np.float32), np.array(pixels.std, dtype=np.float32)
    return torch.from_numpy((rescaled - mean[:, None]) / std[:, None])


class VisionTower(nn.Module):
    """Pixels → features: the selected hidden states side by side, with or without their first row."""

    levels: Tensor

    def __init__(self, vision: VisionSpec, pixels: PixelSpec) -> None:
        super().__init__()
        self.embeddings = _Embeddings(vision)
        # CLIP's own spelling; SigLIP has none.
        self.pre_layrnorm = (
            nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps) if vision.has_class_token else nn.Identity()
        )
        self.layers = nn.ModuleList(_Block(vision) for _ in range(vision.num_layers_run))
        self.register_buffer("levels", normalized_levels(pixels), persistent=False)
        self._states = vision.select_states
        self._num_dropped = int(vision.select_feature == "patch")

    def forward(self, pixels: Tensor) -> Tensor:
        """Shapes: in (N, 3, size, size) uint8; out (N, features, selected · width)."""
        *_, features = self.by_layer(pixels)
        assert features is not None
        return features

    def by_layer(self, pixels: Tensor) -> Iterator[Tensor | None]:
        """`forward` in pieces: nothing after each block, and at last the features."""
        # State 0, too, is taken after this norm: it is the input of the first block.
        hidden = self.pre_layrnorm(self.embeddings(self.normalize(pixels)))
        selected = {0: hidden}
        for number, block in enumerate(self.layers, start=1):
            hidden = block(hidden)
            if number in self._states:
                selected[number] = hidden
            yield None
        yield torch.cat([selected[state][:, self._num_dropped :] for state in self._states], dim=-1)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Shapes: in (N, 3, size, size) uint8; out the same, float32."""
        channels = torch.arange(3, device=pixels.device)[:, None, None]
        return self.levels[channels, pixels.int()]


class _Embeddings(nn.Module):
    """Patches, after CLIP's class token, each with its place."""

    def __init__(self, vision: VisionSpec) -> None:
        super().__init__()
        self.patch_size = vision.patch_size
        self.class_embedding = nn.Parameter(torch.empty(vision.hidden_size)) if vision.has_class_token else None
        # Holds the weight only. Patches do not overlap, so the convolution is one matrix product, and exact in float32
        # also where a library would run convolutions in TF32.
        has_bias = not vision.has_class_token  # SigLIP's has one
        self.patch_embedding = nn.Conv2d(3, vision.hidden_size, vision.patch_size, vision.patch_size, bias=has_bias)
        # Of given weights: to begin with random ones torch would import its compiler, two seconds of a start.
        num_places, width = vision.num_patches + vision.has_class_token, vision.hidden_size
        self.position_embedding = nn.Embedding(num_places, width, _weight=torch.empty(num_places, width))

    def forward(self, pixels: Tensor) -> Tensor:
        """Shapes: in (N, 3, size, size); out (N, rows, width)."""
        weight = self.patch_embedding.weight  # (width, 3, patch, patch)
        count, patch = len(pixels), self.patch_size
        grid = pixels.shape[-1] // patch
        pixels = pixels[..., : grid * patch, : grid * patch]
        patches = pixels.reshape(count, 3, grid, patch, grid, patch).permute(0, 2, 4, 1, 3, 5)
        # Few CPUs have quick products of torch in half precision, and this is a hundredth of the tower.
        dtype = torch.float32 if weight.device.type == "cpu" else weight.dtype
        patches = patches.reshape(count, grid * grid, -1).to(dtype)  # (N, patches, 3 · patch · patch)
        bias = None if self.patch_embedding.bias is None else self.patch_embedding.bias.to(dtype)
        embedded = functional.linear(patches, weight.flatten(1).to(dtype), bias).to(weight.dtype)
        if self.class_embedding is not None:
            embedded = torch.cat([self.class_embedding.expand(count, 1, -1), embedded], dim=1)
        return embedded + self.position_embedding.weight


class _Block(nn.Module):
    """Norm, attention, norm, perceptron; each pair added to what came in."""

    def __init__(self, vision: VisionSpec) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)
        self.self_attn = _SelfAttention(vision)
        self.layer_norm2 = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)
        self.mlp = _Perceptron(vision)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.self_attn(self.layer_norm1(hidden))
        out: Tensor = hidden + self.mlp(self.layer_norm2(hidden))
        return out


class _SelfAttention(nn.Module):
    def __init__(self, vision: VisionSpec) -> None:
        super().__init__()
        width = vision.hidden_size
        self.num_heads = vision.num_heads
        self.qkv_proj = MergedLinear(width, {"q_proj": width, "k_proj": width, "v_proj": width}, bias=True)
        self.out_proj = Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = (
            torch.unflatten(part, -1, (self.num_heads, -1))  # (N, rows, heads, head_dim)
            for part in self.qkv_proj.split(hidden)
        )
        merged: Tensor = self.out_proj(attend_all(query, key, value).flatten(2))
        return merged


class _Perceptron(nn.Module):
    def __init__(self, vision: VisionSpec) -> None:
        super().__init__()
        self.fc1 = Linear(vision.hidden_size, vision.intermediate_size)
        self.fc2 = Linear(vision.intermediate_size, vision.hidden_size)
        self.activation = ACTIVATIONS[vision.activation]

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.activation(self.fc1(hidden)))
        return out
