"""Starts the CLIP-shaped vision tower as a convolution, so that it learns shapes from few pictures.

A vision transformer with random weights must first find out which patches are neighbours. Here the position embeddings
are two-dimensional Fourier features, and each head's query is those features turned by a fixed offset: at the start
each head reads the neighbour at that offset. The patch embedding is a low-frequency cosine basis, luminance and two
chromas, with outputs of unit variance.
Source: the idea of attention that starts as convolution: Cordonnier et al. 2020, d'Ascoli et al. 2021.
"""

import math

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from train.pool import IMAGE_SIZE

PATCH_SIZE = 8
GRID = IMAGE_SIZE // PATCH_SIZE
WIDTH = 128
WAVELENGTHS = (24.0, 12.0, 6.0, 4.0, 3.0, 2.4)
NUM_PLACE_CHANNELS = 4 * len(WAVELENGTHS)
PLACE_AMPLITUDE = 1.5
NUM_LUMINANCE, NUM_CHROMA = 48, 28
TARGET_ATTENTION = 0.7
MAX_SHARPNESS = 5.0
AXIS = ((0, 1), (0, -1), (1, 0), (-1, 0))
DIAGONAL = ((1, 1), (1, -1), (-1, 1), (-1, -1))
# Each layer's offsets (right, down), in patches: one pattern and how far it reaches.
REACH = ((AXIS, 1), (DIAGONAL, 1), (AXIS, 2), (DIAGONAL, 2), (AXIS, 3), (DIAGONAL, 1))
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def vision_config() -> CLIPVisionConfig:
    """Describe the tower."""
    return CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=384, num_hidden_layers=6, num_attention_heads=4, image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE, hidden_act="quick_gelu", projection_dim=WIDTH,
    )  # fmt: skip


def normalise(pixels: Tensor) -> Tensor:
    """Scale as the preprocessor does. Shapes: (n, H, W, 3) uint8 to (n, 3, H, W) float32."""
    mean, std = torch.tensor(CLIP_MEAN), torch.tensor(CLIP_STD)
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def start_as_convolution(tower: CLIPVisionModel, images: Tensor) -> list[float]:
    """Set every weight of a fresh tower, scaled on real pictures; return each layer's attention to its neighbours.

    Shapes: images (n, 3, H, W) float32.
    """
    with torch.no_grad():
        _start_embeddings(tower, images)
        hidden = tower.pre_layrnorm(tower.embeddings(images))
        reached = []
        for layer, (pattern, distance) in zip(tower.encoder.layers, REACH, strict=True):
            offsets = [(right * distance, down * distance) for right, down in pattern]
            _start_layer(layer)
            reached.append(_start_attention(layer, offsets, hidden))
            output = layer(hidden, attention_mask=None)
            hidden = output[0] if isinstance(output, tuple) else output
    return reached


def place_features() -> Tensor:
    """Describe each patch's place by waves. Shapes: out (GRID * GRID, 4 * wavelengths), one (cos, sin) pair a wave."""
    down, right = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    waves = []
    for axis in (right.reshape(-1), down.reshape(-1)):
        for wavelength in WAVELENGTHS:
            angle = axis * (2 * math.pi / wavelength)
            waves += [angle.cos(), angle.sin()]
    return torch.stack(waves, dim=1)


def turn_matrix(right: int, down: int) -> Tensor:
    """Return the matrix that turns the features of a place into those of its neighbour at the offset."""
    matrix = torch.zeros(NUM_PLACE_CHANNELS, NUM_PLACE_CHANNELS)
    pair = 0
    for offset in (right, down):
        for wavelength in WAVELENGTHS:
            angle = offset * 2 * math.pi / wavelength
            cos, sin = math.cos(angle), math.sin(angle)
            matrix[pair : pair + 2, pair : pair + 2] = torch.tensor([[cos, -sin], [sin, cos]])
            pair += 2
    return matrix


def cosine_filters() -> Tensor:
    """List the lowest-frequency cosine patterns of a patch. Shapes: out (WIDTH - places, 3, PATCH, PATCH)."""
    grid = torch.arange(PATCH_SIZE) + 0.5
    waves = [torch.cos(math.pi * order * grid / PATCH_SIZE) for order in range(PATCH_SIZE)]
    orders = sorted(
        ((u, v) for u in range(PATCH_SIZE) for v in range(PATCH_SIZE)), key=lambda order: (sum(order), order)
    )
    planes = [waves[u][:, None] * waves[v][None, :] for u, v in orders]
    colours = ((1.0, 1.0, 1.0), (1.0, -1.0, 0.0), (0.5, 0.5, -1.0))
    counts = (NUM_LUMINANCE, NUM_CHROMA, NUM_CHROMA)
    return torch.stack(
        [
            plane * torch.tensor(colour)[:, None, None]
            for colour, count in zip(colours, counts, strict=True)
            for plane in planes[:count]
        ]
    )


def _start_embeddings(tower: CLIPVisionModel, images: Tensor) -> None:
    embeddings = tower.embeddings
    filters = cosine_filters()
    response = nn.functional.conv2d(images, filters, stride=PATCH_SIZE)
    filters = filters / response.std(dim=(0, 2, 3)).clamp(min=2.0)[:, None, None, None]
    weight = torch.randn(embeddings.patch_embedding.weight.shape) * 0.005
    weight[NUM_PLACE_CHANNELS : NUM_PLACE_CHANNELS + len(filters)] = filters
    embeddings.patch_embedding.weight.copy_(weight)
    places = torch.zeros(GRID * GRID + 1, WIDTH)
    places[1:, :NUM_PLACE_CHANNELS] = place_features() * PLACE_AMPLITUDE
    embeddings.position_embedding.weight.copy_(places)
    embeddings.class_embedding.normal_(std=0.3)


def _start_layer(layer: nn.Module) -> None:
    for linear in (layer.self_attn.v_proj, layer.self_attn.out_proj):
        nn.init.orthogonal_(linear.weight, gain=1.0 if linear is layer.self_attn.v_proj else 0.6)
    nn.init.normal_(layer.mlp.fc1.weight, std=WIDTH**-0.5)
    nn.init.normal_(layer.mlp.fc2.weight, std=0.5 * layer.mlp.fc2.in_features**-0.5)
    for linear in layer.modules():
        if isinstance(linear, nn.Linear):
            nn.init.zeros_(linear.bias)
    # Nothing writes over the places at first, or the later layers' heads would miss their neighbours.
    for linear in (layer.self_attn.out_proj, layer.mlp.fc2):
        linear.weight[:NUM_PLACE_CHANNELS] = 0


def _start_attention(layer: nn.Module, offsets: list[tuple[int, int]], hidden: Tensor) -> float:
    """Aim each head at its neighbour, and double the sharpness until the neighbour gets most of the attention."""
    attention = layer.self_attn
    head_size = WIDTH // len(offsets)
    normed = layer.layer_norm1(hidden)
    query = torch.randn(WIDTH, WIDTH) * 0.01
    key = torch.randn(WIDTH, WIDTH) * 0.01
    for head, (right, down) in enumerate(offsets):
        rows = slice(head * head_size, head * head_size + NUM_PLACE_CHANNELS)
        query[rows, :NUM_PLACE_CHANNELS] = turn_matrix(right, down)
        key[rows, :NUM_PLACE_CHANNELS] = torch.eye(NUM_PLACE_CHANNELS)
    sharpness, reached = 0.1, 0.0
    while reached < TARGET_ATTENTION and sharpness < MAX_SHARPNESS:
        sharpness *= 1.25
        attention.q_proj.weight.copy_(query * sharpness)
        attention.k_proj.weight.copy_(key * sharpness)
        reached = _neighbour_attention(attention, offsets, normed, head_size)
    return reached


def _neighbour_attention(attention: nn.Module, offsets: list[tuple[int, int]], normed: Tensor, head_size: int) -> float:
    """Measure the mean share of attention that falls on the neighbour, where there is one."""
    shape = (normed.shape[0], normed.shape[1], len(offsets), head_size)
    query = attention.q_proj(normed).view(shape).transpose(1, 2)
    key = attention.k_proj(normed).view(shape).transpose(1, 2)
    weights = (query @ key.transpose(2, 3) / math.sqrt(head_size)).softmax(dim=-1)[:, :, 1:, 1:]
    shares = []
    for head, (right, down) in enumerate(offsets):
        for row in range(max(0, -down), min(GRID, GRID - down)):
            for column in range(max(0, -right), min(GRID, GRID - right)):
                source, target = row * GRID + column, (row + down) * GRID + column + right
                shares.append(weights[:, head, source, target].mean())
    return float(torch.stack(shares).mean())
