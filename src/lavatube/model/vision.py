"""The CLIP vision tower: squares of uint8 pixels in, the hidden state that the checkpoint selects out.

Knows nothing of how an image became a square; only the blocks before the selected state exist here.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lavatube.model.linear import MergedLinear
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
    """Pixels → features, the selected hidden state with or without the class token."""

    levels: Tensor

    def __init__(self, vision: VisionSpec, pixels: PixelSpec) -> None:
        super().__init__()
        self.embeddings = _Embeddings(vision)
        self.pre_layrnorm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)  # CLIP's own spelling
        self.layers = nn.ModuleList(_Block(vision) for _ in range(vision.num_layers_run))
        self.register_buffer("levels", normalized_levels(pixels), persistent=False)
        self._num_dropped = vision.num_patches + 1 - vision.num_features

    def forward(self, pixels: Tensor) -> Tensor:
        """Shapes: in (N, 3, size, size) uint8; out (N, features, width)."""
        hidden = self.embeddings(self.normalize(pixels))
        # State 0, too, is taken after this norm: it is the input of the first block.
        hidden = self.pre_layrnorm(hidden)
        for block in self.layers:
            hidden = block(hidden)
        features: Tensor = hidden[:, self._num_dropped :]
        return features

    def normalize(self, pixels: Tensor) -> Tensor:
        """Shapes: in (N, 3, size, size) uint8; out the same, float32."""
        channels = torch.arange(3, device=pixels.device)[:, None, None]
        return self.levels[channels, pixels.int()]


class _Embeddings(nn.Module):
    """Patches and the class token, each with its place."""

    def __init__(self, vision: VisionSpec) -> None:
        super().__init__()
        self.patch_size = vision.patch_size
        self.class_embedding = nn.Parameter(torch.empty(vision.hidden_size))
        # Holds the weight only. Patches do not overlap, so the convolution is one matrix product, and exact in float32
        # also where a library would run convolutions in TF32.
        self.patch_embedding = nn.Conv2d(3, vision.hidden_size, vision.patch_size, vision.patch_size, bias=False)
        self.position_embedding = nn.Embedding(vision.num_patches + 1, vision.hidden_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """Shapes: in (N, 3, size, size); out (N, 1 + patches, width)."""
        weight = self.patch_embedding.weight  # (width, 3, patch, patch)
        count, patch = len(pixels), self.patch_size
        grid = pixels.shape[-1] // patch
        pixels = pixels[..., : grid * patch, : grid * patch]
        patches = pixels.reshape(count, 3, grid, patch, grid, patch).permute(0, 2, 4, 1, 3, 5)
        patches = patches.reshape(count, grid * grid, -1).to(weight.dtype)  # (N, patches, 3 · patch · patch)
        embedded = functional.linear(patches, weight.flatten(1))
        classes = self.class_embedding.expand(count, 1, -1)
        return torch.cat([classes, embedded], dim=1) + self.position_embedding.weight


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
        self.out_proj = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (N, heads, rows, head_dim)
            for part in self.qkv_proj(hidden)
        )
        out = functional.scaled_dot_product_attention(query, key, value)
        merged: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return merged


class _Perceptron(nn.Module):
    def __init__(self, vision: VisionSpec) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision.hidden_size, vision.intermediate_size)
        self.fc2 = nn.Linear(vision.intermediate_size, vision.hidden_size)
        self.is_quick = vision.activation == "quick_gelu"

    def forward(self, hidden: Tensor) -> Tensor:
        inner: Tensor = self.fc1(hidden)
        inner = inner * torch.sigmoid(1.702 * inner) if self.is_quick else functional.gelu(inner)
        out: Tensor = self.fc2(inner)
        return out
