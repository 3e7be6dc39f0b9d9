"""What a tiny random checkpoint is made of: what a test may choose, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Family = Literal["llava", "llava_next", "llava_next_video", "llava_onevision", "vipllava"]
KeyStyle = Literal["new", "middle", "old"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything else follows from it.

    key_style: the three spellings of tensor names that llava-hf files have had.
    with_head: whether `lm_head` is in the file; by default where it is not tied.
    grids: (height, width) as the files have them; by default those of the family, in tiles of `image_size`.
    select_layer: a list for several.
    special_tokens: what the tokenizer has beside Llama's own and the placeholders.
    sentences: what the tokenizer is trained on; by default a few, which fill a small vocabulary.
    """

    family: Family = "llava"
    seed: int = 0
    dtype: str = "float32"
    key_style: KeyStyle = "new"
    num_shards: int = 1
    pixel_mode: Literal["crop", "stretch", "pad"] = "crop"
    with_chat_template: bool = True

    tower: Literal["clip", "siglip"] = "clip"
    image_size: int = 32
    patch_size: int = 8
    vision_hidden_size: int = 32
    vision_intermediate_size: int = 64
    vision_layers: int = 3
    vision_heads: int = 4
    vision_activation: Literal["quick_gelu", "gelu", "gelu_pytorch_tanh"] | None = None
    select_layer: int | tuple[int, ...] = -2
    select_strategy: Literal["default", "full"] = "default"
    grids: tuple[tuple[int, int], ...] | None = None
    max_tiles: int = 2
    projector_bias: bool = True

    language: Literal["llama", "mistral", "qwen2"] = "llama"
    hidden_size: int = 64
    intermediate_size: int = 96
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int | None = None
    sliding_window: int | None = None
    vocab_size: int = 320
    special_tokens: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()
    rope_theta: float = 10000.0
    max_positions: int = 1024
    tied: bool = False
    with_head: bool | None = None

    @property
    def is_anyres(self) -> bool:
        return self.family in ("llava_next", "llava_next_video", "llava_onevision")

    @property
    def has_class_token(self) -> bool:
        return self.tower == "clip"

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_image_tokens(self) -> int:
        """Of one tile."""
        return self.num_patches + self.has_class_token - (self.select_strategy == "default")

    @property
    def feature_size(self) -> int:
        num_selected = len(self.select_layer) if isinstance(self.select_layer, tuple) else 1
        return self.vision_hidden_size * num_selected

    @property
    def activation(self) -> str:
        return self.vision_activation or ("quick_gelu" if self.tower == "clip" else "gelu_pytorch_tanh")

    @property
    def grid_sizes(self) -> list[list[int]]:
        """(height, width) in pixels."""
        if self.grids is not None:
            return [list(grid) for grid in self.grids]
        if self.family == "llava_onevision":
            tiles = [(rows, cols) for rows in range(1, 4) for cols in range(1, 4)]
        else:
            tiles = [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3)]
        return [[rows * self.image_size, cols * self.image_size] for rows, cols in tiles]
